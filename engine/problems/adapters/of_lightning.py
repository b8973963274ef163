"""A module of Lightning and its data as a problem."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.problems.adapters.adapted import (
    UNORDERED,
    AdaptedProblem,
    drawn_at_random,
    held_module,
    notes_for_users,
    shards_of,
)
from engine.problems.adapters.lightning_losses import compare_losses
from engine.problems.adapters.lightning_modules import (
    guarded,
    in_double,
    refuse_other_loops,
    training_loss,
)
from engine.problems.adapters.lightning_optimizers import (
    RatesOfSteps,
    TrainingLength,
    clipping,
    configured_by,
    length_of,
)
from engine.problems.adapters.lightning_order import loaders_of, order_of, refuse_reloads
from engine.problems.adapters.torch_optimizers import optimizer_of_torch, unclipped
from engine.routine.examples import Collated, collated
from engine.routine.number_format import convert
from engine.routine.optimizer import Optimizer
from engine.types import Loss


def from_lightning(  # noqa: PLR0913 (a call with the settings of a loop)
    module: Any,  # noqa: ANN401 (of a library that is not imported)
    data: Any,  # noqa: ANN401 (a datamodule, or two loaders)
    trainer: Any = None,  # noqa: ANN401 (of a library)
    *,
    num_steps: int | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    eps_root: float = 1e-8,
    keep_order: bool = True,
    ignored_hooks: tuple[str, ...] = (),
    **parts: Any,  # noqa: ANN401 (of Problem)
) -> AdaptedProblem:
    """Return the training of a LightningModule as a problem.

    ``training_step`` is the loss, ``configure_optimizers`` gives the optimizer, its groups of
    parameters and the rates; steps, clipping and accumulation are the Trainer's. With
    ``eps_root=0`` every step is Lightning's own, to rounding, if nothing is drawn at random. The
    module stays as it is.

    Args:
        module: A LightningModule with automatic optimization and one optimizer.
        data: A LightningDataModule, or a pair of loaders: training examples, and the held-out
            ones whose mean loss is the output.
        trainer: Lightning's Trainer, of which steps, clipping and accumulation are read.
        num_steps: T, in place of the Trainer's.
        loss: Maps (module, batch) to one loss for each example, shape (batch,). By default
            ``training_step`` is called for each example by itself.
        optimizer: Optimizer in place of the one that ``configure_optimizers`` returns, with its own
            clipping; the rates are those of the module's scheduler.
        eps_root: Added inside of Adam's square root, where torch has 0; see ``engine.adam``.
        keep_order: Whether the loader's order of examples is read; ``Counts`` need the engine's.
        ignored_hooks: Hooks of the module that change nothing in its training, by name.
        **parts: Further parts of ``engine.Problem``: validation, test, names, show, metrics, ...

    Raises:
        ConfigurationError: If the module does what a problem cannot, with the remedy.
        DataError: If no batches can be made of its data.

    Cost:
        A copy of the module. Without ``loss``, a batch costs as many passes as it has examples.
    """
    left = refuse_other_loops(module, trainer, ignored_hooks)
    held, is_double = guarded(held_module(module)), in_double(trainer)
    if is_double:
        held = held.double()
    refuse_reloads(trainer)
    train, held_out, loader = _examples(data, one_by_one=loss is None, is_double=is_double)
    length = length_of(trainer, loader, num_steps)
    of_loss = compare_losses(held, train, loss, len(loader), left)
    configured, clip = configured_by(held, length), clipping(trainer)
    made = optimizer
    if made is None:
        made = optimizer_of_torch(configured[0], held, eps_root=eps_root, **clip)
    order, of_order = None, UNORDERED
    if keep_order:
        order, of_order = order_of(loader, length.num_steps, length.accumulated, length.batches)
    settings = _settings(held, length)
    given: dict[str, Any] = {
        "model": held,
        "loss": training_loss if loss is None else loss,
        "train": train,
        "objective": held_out,
        "optimizer": made,
        "learning_rate": RatesOfSteps(configured, length, made),
        "order": order,
        "chunk": length.batch_size,
    }
    clips = unclipped(made, "gradient_clip_val", float(next(iter(clip.values()), 0)))
    draws = drawn_at_random(held, train, loss or training_loss)
    said = _not_carried(left, [of_order, of_loss, clips, *draws], made)
    parts["notes"] = (*notes_for_users(settings, said, "Lightning"), *parts.get("notes", ()))
    return AdaptedProblem(**(given | parts), **settings, not_carried=said)


def _settings(module: nn.Module, length: TrainingLength) -> dict[str, Any]:
    """Return the settings of a recipe's training that the Trainer fixes."""
    settings = {"num_steps": length.num_steps, "batch_size": length.batch_size, "seed": 0}
    shards = shards_of(module, length.accumulated)
    return settings | ({"shards": shards} if shards > 1 else {})


def _not_carried(
    left: Sequence[str], found: Sequence[str | None], optimizer: Optimizer
) -> tuple[str, ...]:
    """Return one sentence for each thing that differs from Lightning's own training."""
    root = (
        f"the bare square root of {optimizer.name}: eps_root={optimizer.root} is added inside of "
        "it."
    )
    held_out = "validation_step: held-out examples have the loss of training_step."
    return (*left, *filter(None, found), *([root] if optimizer.root else ()), held_out)


def _examples(
    data: Any,  # noqa: ANN401 (of a library)
    *,
    one_by_one: bool,
    is_double: bool,
) -> tuple[Collated, Collated, Any]:
    """Return training and held-out examples, and the training loader."""
    train, held_out = loaders_of(data)

    def of(loader: Any) -> Collated:  # noqa: ANN401 (of a library)
        collate = _InDouble(loader.collate_fn) if is_double else loader.collate_fn
        return collated(loader.dataset, _EachByItself(collate) if one_by_one else collate)

    return of(train), of(held_out), train


@dataclass(frozen=True)
class _InDouble:
    """Makes batches in float64, as Lightning converts those that a Trainer of 64 bits is given."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> Any:  # noqa: ANN401 (any batch)
        return convert(self.collate(samples), torch.float64)


@dataclass(frozen=True)
class _EachByItself:
    """Makes a batch of one of each sample, so that nothing is padded to its neighbours."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> list[Any]:
        return [self.collate([sample]) for sample in samples]
