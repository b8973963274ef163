"""The order in which a ``Trainer`` draws its examples, read from its own loader."""

from dataclasses import dataclass
from typing import Any

import torch


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


def order_of(trainer: Any, loop: Loop) -> tuple[list[list[int]] | None, str | None]:  # noqa: ANN401
    """Return the examples of each step, or why they cannot be carried over.

    The loader is asked for its indices, pass by pass, as in training; nothing is collated.

    Args:
        trainer: Its loader draws under its own seed.
        loop: How it counts.
    """
    steps: list[list[int]] = []
    with torch.random.fork_rng():
        torch.manual_seed(trainer.args.seed)
        loader = trainer.get_train_dataloader()
        sampler = getattr(loader, "batch_sampler", None)
        if sampler is None:
            return None, "its loader has no batches of indices"
        epoch = 0
        while len(steps) < loop.num_steps:
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            batches = [[int(place) for place in batch] for batch in sampler]
            made = [
                sum(batches[start : start + loop.accumulated], [])
                for start in range(0, len(batches), loop.accumulated)
            ]
            odd = [len(step) for step in made if len(step) != loop.batch_size]
            if odd or not made:
                return None, (
                    f"the last step of each pass has {odd[0] if odd else 0} examples where the "
                    f"others have {loop.batch_size}, and all batches have one size here "
                    "(dataloader_drop_last=True, and a multiple of gradient_accumulation_steps, "
                    "keep it)"
                )
            steps += made
            epoch += 1
    return steps[: loop.num_steps], None
