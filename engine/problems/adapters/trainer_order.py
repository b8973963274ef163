"""The order in which a ``Trainer`` draws its examples, read from its own loader."""

from dataclasses import dataclass
from typing import Any

from engine.problems.adapters.drawn_orders import (
    DRAWN_ANEW,
    Steps,
    generators_kept,
    is_drawn_anew,
)


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


def order_of(trainer: Any, loop: Loop) -> tuple[Steps | None, str | None]:  # noqa: ANN401
    """Return the examples of each step, and in a sentence what of them cannot be carried over.

    The loader is asked for its indices, pass by pass, as in training; nothing is collated.

    Args:
        trainer: Its loader draws under the seed that torch was given last: the Trainer's own, when
            it was made, unless somebody gave another one since.
        loop: How it counts.
    """

    def read(num_steps: int) -> Steps:
        return _read(trainer, loop, num_steps)

    try:
        with generators_kept():
            found = read(loop.num_steps)
        anew = is_drawn_anew(read, found, min(loop.a_pass, loop.num_steps))
    except _Odd as odd:
        return None, f"the order of the examples, because {odd}; the engine draws its own."
    return found, DRAWN_ANEW if anew else None


class _Odd(Exception):
    """Why there is no order."""


def _read(trainer: Any, loop: Loop, num_steps: int) -> Steps:  # noqa: ANN401
    steps: Steps = []
    loader = trainer.get_train_dataloader()
    sampler = getattr(loader, "batch_sampler", None)
    if sampler is None:
        raise _Odd("its loader has no batches of indices")
    epoch = 0
    while len(steps) < num_steps:
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        batches = [[int(place) for place in batch] for batch in sampler]
        made = [
            sum(batches[start : start + loop.accumulated], [])
            for start in range(0, len(batches), loop.accumulated)
        ]
        odd = [len(step) for step in made if len(step) != loop.batch_size]
        if odd or not made:
            raise _Odd(
                f"the last step of each pass has {odd[0] if odd else 0} examples where the others "
                f"have {loop.batch_size}, and all batches have one size here "
                "(dataloader_drop_last=True, and a multiple of gradient_accumulation_steps, keep "
                "it)"
            )
        steps += made
        epoch += 1
    return steps[:num_steps]
