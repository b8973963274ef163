"""Comparison of the loss that a ``Trainer`` minimizes in a step with that of its problem."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.problems.adapters.adapted import compared, only_looked_at, places_looked_at
from engine.problems.adapters.trainer_losses import TOKENWISE, LossKind, TrainerLoss
from engine.routine.examples import Collated
from engine.types import Loss


def adds_means_up(
    trainer: Any,  # noqa: ANN401 (of a library)
    model: nn.Module,
    examples: Collated,
    accumulated: int,
    kind: LossKind,
) -> bool:
    """Say whether the means of accumulated batches are added up, and not averaged.

    A Trainer hands the number of labels to every model whose ``forward`` takes further keywords,
    and then adds the losses of the accumulated batches up (``loss_is_scaled_for_ga``, which a user
    may set). Many models take that number and average over each batch all the same, so that the sum
    of means is trained: with one label for each example that many times the mean over all.

    Raises:
        ConfigurationError: If what is added up is no multiple of the mean over all labels.
    """
    batch = few_of(model, examples)
    with only_looked_at(model):
        one, two = (
            float(trainer.compute_loss(model, dict(batch), num_items_in_batch=number))
            for number in (torch.tensor(5), torch.tensor(10))
        )
    reads = math.isclose(one, 2 * two, rel_tol=1e-3, abs_tol=1e-7)
    said = getattr(trainer, "loss_is_scaled_for_ga", None)
    adds_up = trainer.model_accepts_loss_kwargs if said is None else said
    name, is_set = type(model).__name__, f"gradient_accumulation_steps is {accumulated}"
    if adds_up and not reads and kind in TOKENWISE:
        raise ConfigurationError(
            f"{is_set}, and transformers adds the mean losses of these batches up for {name}, "
            "whose loss does not read over how many labels a mean is meant. Use "
            "gradient_accumulation_steps=1 with the whole batch, or hand in loss=."
        )
    if reads and not adds_up:
        raise ConfigurationError(
            f"{is_set} and loss_is_scaled_for_ga is {said}, so the Trainer divides the loss of "
            f"{name}, which is over all labels already, by {accumulated} once more. Leave "
            "loss_is_scaled_for_ga as it is, or hand in loss=."
        )
    if kind in TOKENWISE and not reads:
        raise ConfigurationError(
            f"{is_set}, and {name} averages tokens over each of these batches by itself. Use "
            "gradient_accumulation_steps=1, or hand in loss=."
        )
    return adds_up and not reads


def few_of(model: nn.Module, examples: Collated) -> dict[str, Any]:
    """Return a batch of a few examples, see ``places_looked_at``, on the model's device."""
    rows = [examples.samples[place] for place in places_looked_at(len(examples))]
    return _batch_of(model, examples, rows)


def _batch_of(model: nn.Module, examples: Collated, rows: list[Any]) -> dict[str, Any]:
    device = next(model.parameters()).device
    return {
        name: each.to(device) if isinstance(each, torch.Tensor) else each
        for name, each in dict(examples.collate(copy.deepcopy(rows))).items()
    }


def compare(
    trainer: Any,  # noqa: ANN401 (of a library)
    model: nn.Module,
    loss: TrainerLoss,
    examples: Collated,
) -> None:
    """Refuse a model whose loss of a batch is not what its examples' losses are the mean of."""
    batch = few_of(model, examples)
    try:
        whole, mean, are_alike = compared(
            model,
            lambda: trainer.compute_loss(model, dict(batch)),
            lambda: loss(model, batch).mean(),
        )
    except ValueError as error:  # an adapter that puts tokens of its own before the others, say
        raise ConfigurationError(
            f"The loss of each example of {type(model).__name__} cannot be had in the way that is "
            f"known of it ({error}). Hand in loss=, a function of (model, batch) that returns one "
            "loss for each example."
        ) from error
    if not are_alike:
        raise ConfigurationError(
            f"The loss that {type(model).__name__} has of {len(batch['labels'])} examples is "
            f"{whole:.6g}, but the mean of what is known to be its loss of each is {mean:.6g}, or "
            "has another gradient. "
            "Hand in loss=, a function of (model, batch) that returns one loss for each example."
        )


def other_loss(
    trainer: Any,  # noqa: ANN401 (of a library)
    model: nn.Module,
    loss: Loss,
    examples: Collated,
    accumulated: int,
) -> str | None:
    """Say in a sentence where a loss that a user handed in is none of the Trainer's, or None.

    A loss of each example is handed in for what the Trainer makes of a batch; where batches are
    accumulated, transformers may add their means up.
    """
    some = places_looked_at(len(examples))
    each = max(len(some) // accumulated, 1)
    number = each * accumulated
    if len(examples) < number:
        return None
    places = list(dict.fromkeys((*some, *range(number))))[:number]
    rows = [examples.samples[place] for place in places]
    parts = [_batch_of(model, examples, rows[at : at + each]) for at in range(0, len(rows), each)]
    count = getattr(trainer, "_get_num_items_in_batch", None)
    items = None if count is None else count(parts, trainer.args.device)
    said = getattr(trainer, "loss_is_scaled_for_ga", None)
    counted = trainer.model_accepts_loss_kwargs and items is not None
    adds_up = (counted or trainer.compute_loss_func is not None) if said is None else said

    def theirs() -> Tensor:
        losses = [
            trainer.compute_loss(model, dict(part), num_items_in_batch=items) for part in parts
        ]
        return torch.stack(losses).sum() / (1 if adds_up else accumulated)

    try:
        whole, mean, are_alike = compared(
            model, theirs, lambda: loss(model, _batch_of(model, examples, rows)).mean()
        )
    except Exception as error:
        return (
            f"the Trainer's own loss, with which loss= could not be compared "
            f"({type(error).__name__}: {error})."
        )
    if are_alike:
        return None
    in_batches = f" in {accumulated} batches" if accumulated > 1 else ""
    return (
        f"the Trainer's own loss: a step on {len(rows)} examples{in_batches} has "
        f"{whole:.6g} there, and the mean of loss= is {mean:.6g} or has another gradient, with "
        "which is trained."
    )
