"""Orders of examples that a library's loader draws, read without moving anybody's generators."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

Steps = list[list[int]]
"""The examples of each step."""

DRAWN_ANEW = (
    "the order of the examples that will be drawn: the loader draws from a generator that all share"
    " (torch's, numpy's or Python's), so that it is another one each time; one of them is taken. A "
    "generator of its own, with a seed, keeps it."
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


def is_drawn_anew(read: Callable[[int], Steps], found: Steps, num_steps: int) -> bool:
    """Say whether an order is another one where the shared generators stand elsewhere.

    Args:
        read: Maps a number of steps to their order, and moves nothing.
        found: What it gave.
        num_steps: How many steps are compared; a pass over the data, as a rule.
    """
    with generators_kept():
        torch.rand(1)
        random.random()
        np.random.random()
        again = read(num_steps)
    return again[:num_steps] != found[:num_steps]
