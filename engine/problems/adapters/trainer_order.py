"""The order in which a ``Trainer`` draws its examples, read from its own loader."""

from dataclasses import dataclass
from typing import Any

from engine.problems.adapters.drawn_orders import (
    NoOrderError,
    Steps,
    batches_of_pass,
    joined,
    order_once,
    own_generators_kept,
)

_REMEDY = "dataloader_drop_last=True, and a multiple of gradient_accumulation_steps, keep it"


@dataclass(frozen=True)
class Loop:
    """How a Trainer counts.

    Attributes:
        num_steps: Optimizer steps.
        batch_size: Examples of one, those of accumulated batches together.
        accumulated: Batches of one.
        a_pass: Optimizer steps of a pass over the data.
    """

    num_steps: int
    batch_size: int
    accumulated: int
    a_pass: int


def order_of(trainer: Any, loop: Loop) -> tuple[Steps | None, str | None]:  # noqa: ANN401 (of a library)
    """Return the examples of each step, and in a sentence what of them cannot be carried over.

    The loader is asked for its indices, pass by pass, as in training; nothing is collated.

    Args:
        trainer: Its loader draws under the seed that torch was given last: the Trainer's own, when
            it was made, unless a user gave another one since.
        loop: How it counts.
    """
    return order_once(
        lambda num_steps: _read(trainer, loop, num_steps), loop.num_steps, loop.a_pass
    )


def _read(trainer: Any, loop: Loop, num_steps: int) -> Steps:  # noqa: ANN401 (of a library)
    steps: Steps = []
    loader = trainer.get_train_dataloader()
    sampler = getattr(loader, "batch_sampler", None)
    if sampler is None:
        raise NoOrderError("its loader has no batches of indices")
    epoch = 0
    with own_generators_kept(loader):
        while len(steps) < num_steps:
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            of_accelerate = hasattr(loader, "base_dataloader")  # which asks for the end of a pass
            drawn = sampler if of_accelerate else batches_of_pass(loader, len(loader), epoch)
            batches = [[int(place) for place in batch] for batch in drawn]
            steps += joined(batches, loop.accumulated, loop.batch_size, _REMEDY)
            epoch += 1
    return steps[:num_steps]
