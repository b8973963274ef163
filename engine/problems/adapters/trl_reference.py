"""The reference of trl's preference trainers: its log-probabilities as columns of the examples.

A loss of preferences compares the model with a reference that stays where it is. The trainer of trl
may ask it in every step (its default), or once, before training (``precompute_ref_log_probs``); the
numbers are the same, because the reference is. Here it is asked once, whatever trl would do.

References:
    trl 1.16, its module of the DPO trainer, whose columns bear the same names.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.problems.adapters.adapted import moved_in, places_looked_at
from engine.routine.examples import Collated, collated

_PREFERENCES = ("trl.trainer.dpo_trainer", "DPOTrainer")
"""The class that asks a reference."""

_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""Names that trl gives to what the reference says of a pair."""


def has_live_reference(trainer: Any) -> bool:  # noqa: ANN401 (of a library)
    """Say whether a trainer of trl asks its reference in every step."""
    if not any((each.__module__, each.__name__) == _PREFERENCES for each in type(trainer).__mro__):
        return False
    free = getattr(trainer.args, "reference_free", False)  # of older versions: no reference at all
    return not (trainer.args.precompute_ref_log_probs or free)


def with_reference(trainer: Any, examples: Collated, chunk: int) -> Collated:  # noqa: ANN401 (of a library)
    """Return examples of a trainer whose batches have what its reference says of each pair.

    They are as they were, if it asks no reference in its steps.

    Args:
        trainer: As its training begins.
        examples: Pairs, and trl's collator.
        chunk: Pairs that the reference is asked for at once.

    Raises:
        ConfigurationError: If the reference moves in training, or draws random numbers.

    Cost:
        One forward pass of the reference over all pairs.
    """
    if not has_live_reference(trainer):
        return examples
    if getattr(trainer.args, "sync_ref_model", False):
        raise ConfigurationError(
            "sync_ref_model is True: the reference follows the model in training, so that its "
            "log-probabilities are other ones at each step. Set it to False, or write an "
            "engine.Problem whose state= is the reference and whose advance= moves it: `mgd new`."
        )
    reference_of = _asking(trainer, examples)
    with _as_in_training(trainer):
        _refuse_moving(trainer, reference_of, len(examples))
        said = [
            torch.cat(column)
            for column in zip(
                *(
                    reference_of(list(range(start, min(start + chunk, len(examples)))))
                    for start in range(0, len(examples), chunk)
                ),
                strict=True,
            )
        ]
    rows = _Referred(examples.samples, torch.stack(said, dim=1).cpu())
    return collated(rows, _WithColumns(examples.collate))


@dataclass(frozen=True, eq=False)
class _Referred:
    """Pairs by index, each with what the reference says of it.

    Attributes:
        pairs: Dicts.
        said: Log-probabilities of the chosen and the rejected answers, shape (pairs, 2).
    """

    pairs: Any
    said: Tensor

    def __len__(self) -> int:
        return len(self.said)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {**self.pairs[place], **dict(zip(_COLUMNS, self.said[place], strict=True))}


@dataclass(frozen=True)
class _WithColumns:
    """Makes batches as trl does, and adds the columns of the reference."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        plain = [{n: v for n, v in each.items() if n not in _COLUMNS} for each in samples]
        columns = {name: torch.stack([each[name] for each in samples]) for name in _COLUMNS}
        return {**self.collate(plain), **columns}


def _asking(trainer: Any, examples: Collated) -> Callable[[list[int]], tuple[Tensor, Tensor]]:  # noqa: ANN401 (of a library)
    """Return a function that computes the reference's values of some pairs, by their places."""
    method = getattr(trainer, "compute_ref_log_probs", None)
    names = [] if method is None else list(inspect.signature(method).parameters)
    if method is None or names not in (["model", "inputs"], ["inputs"], ["batch"]):
        raise ConfigurationError(
            f"{type(trainer).__name__} asks its reference in every step, in a way that is not "
            "known here. Set precompute_ref_log_probs=True."
        )
    model = (trainer.ref_model or trainer.model,) if len(names) == 2 else ()  # since trl 1.9

    def reference_of(places: list[int]) -> tuple[Tensor, Tensor]:
        batch = dict(examples.collate([copy.deepcopy(examples.samples[at]) for at in places]))
        on_device = {
            name: each.to(trainer.args.device) if isinstance(each, Tensor) else each
            for name, each in batch.items()
        }
        with torch.no_grad():
            chosen, rejected = method(*model, on_device)
        return chosen, rejected

    return reference_of


@contextmanager
def _as_in_training(trainer: Any) -> Iterator[None]:  # noqa: ANN401 (of a library)
    """Have the trained model in training mode, in which a reference inside of it is asked."""
    modes = [(each, each.training) for each in trainer.model.modules()]
    trainer.model.train()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for each, training in modes:
            each.training = training


def _refuse_moving(
    trainer: Any,  # noqa: ANN401 (of a library)
    reference_of: Callable[[list[int]], tuple[Tensor, Tensor]],
    number: int,
) -> None:
    """Refuse a reference that differs after a step, or at a second look."""
    places = places_looked_at(number)
    trained: nn.Module = trainer.accelerator.unwrap_model(trainer.model)
    torch.manual_seed(0)
    first = torch.stack(reference_of(places))
    torch.manual_seed(1)
    if not torch.equal(first, torch.stack(reference_of(places))):
        raise ConfigurationError(
            "The reference draws random numbers: it says other log-probabilities of the same pair "
            "each time. Leave disable_dropout=True, or hand in ref_model in evaluation mode."
        )
    with moved_in(trained):
        torch.manual_seed(0)
        moves = not torch.equal(first, torch.stack(reference_of(places)))
    if moves:
        raise ConfigurationError(
            "The reference has parameters that are trained (shared with the model, or trained "
            "beside an adapter, such as bias='all'), so the reference moves during training. Hand "
            "in a copy of the model as ref_model, or set precompute_ref_log_probs=True if the "
            "reference should stay fixed."
        )
