"""Orders of examples that a library's loader draws, read without moving anybody's generators."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

Steps = list[list[int]]
"""The examples of each step."""

DRAWN_ANEW = (
    "the order of the examples that will be drawn: the loader draws from a generator of the whole "
    "process (torch's, numpy's or Python's), so that its order differs from run to run, and the "
    "run takes one such order. Give the loader a generator with a seed to keep its order."
)
"""What is said of an order that depends on when it is read."""


@contextmanager
def generators_kept() -> Iterator[None]:
    """Have torch's, numpy's and Python's generators where they stood after the block."""
    before, numpy_before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


@contextmanager
def own_generators_kept(loader: Any) -> Iterator[None]:  # noqa: ANN401 (of a library)
    """Have the generators of a loader and its samplers where they stood after the block."""
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    own = {getattr(each, "generator", None) for each in holders}
    before = [(each, each.get_state()) for each in own if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for each, state in before:
            each.set_state(state)


def batches_of_pass(loader: Any, number: int, epoch: int) -> Steps:  # noqa: ANN401 (a loader of torch)
    """Return the examples of each batch of a loader's next pass, as its samplers draw them.

    A loader draws a number of its own when a pass begins, or its workers are made. Its workers ask
    for batches ahead, and so for the end of the pass, at which a random sampler draws once more.

    Args:
        loader: Loader with batches of indices.
        number: Batches that are taken.
        epoch: Passes before this one.
    """
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
    indices = loader.batch_sampler
    if not (loader.persistent_workers and epoch):
        indices = DataLoader(
            range(len(loader.dataset)),  # pyright: ignore[reportArgumentType] (has a length and items)
            batch_sampler=indices,
            generator=loader.generator,
            collate_fn=list,
        )
    return list(islice(iter(indices), number + ahead))[:number]


class NoOrderError(Exception):
    """Why an order cannot be carried over, in a clause."""


def order_once(
    read: Callable[[int], Steps], num_steps: int, a_pass: int
) -> tuple[Steps | None, str | None]:
    """Return the examples of each step, and in a sentence what of them cannot be carried over.

    Args:
        read: Maps a number of steps to their order, and may draw from the shared generators.
        num_steps: T.
        a_pass: Steps of a pass over the data.
    """
    try:
        with generators_kept():
            found = read(num_steps)
        anew = _is_drawn_anew(read, found, min(a_pass, num_steps))
    except NoOrderError as error:
        return None, f"the order of the examples, because {error}; the engine draws its own."
    return found, DRAWN_ANEW if anew else None


def joined(batches: Steps, accumulated: int, size: int, remedy: str) -> Steps:
    """Return the steps that the batches of a pass make.

    Args:
        batches: Examples of each.
        accumulated: Batches of a step.
        size: Examples of a step.
        remedy: What keeps all steps of one size, in words.

    Raises:
        NoOrderError: If one of them has another size, or there is none.
    """
    made = [
        sum(batches[start : start + accumulated], [])
        for start in range(0, len(batches), accumulated)
    ]
    odd = [len(step) for step in made if len(step) != size]
    if odd or not made:
        raise NoOrderError(
            f"the last step of each pass has {odd[0] if odd else 0} examples where the others have "
            f"{size}, and all batches have one size here ({remedy})"
        )
    return made


def _is_drawn_anew(read: Callable[[int], Steps], found: Steps, num_steps: int) -> bool:
    """Say whether an order depends on the state of the shared generators."""
    with generators_kept():
        torch.rand(1)
        random.random()
        np.random.random()
        again = read(num_steps)
    return again[:num_steps] != found[:num_steps]
