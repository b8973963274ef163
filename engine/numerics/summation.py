"""Sums whose order is fixed, so that whoever makes the parts, the sum has the same bits."""

from collections.abc import Callable, Iterable
from typing import TypeVar

_Part = TypeVar("_Part")


def tree_sum(parts: Iterable[_Part], add: Callable[[_Part, _Part], _Part]) -> _Part:
    """Return the sum of parts in one binary tree, which depends on their number alone.

    Neighbours are added first, then neighbouring pairs, and so on: ((a + b) + (c + d)) + e. So
    whoever makes a block of 2^k parts, from a multiple of 2^k on, can add them by itself.

    Args:
        parts: Parts in order; at least one. They are asked for one after the other.
        add: Adds two of them, the left one first; it may use up both.

    Cost:
        Memory for one part in each level of the tree: log2 of their number.
    """
    waiting: list[tuple[int, _Part]] = []
    for part in parts:
        size, total = 1, part
        while waiting and waiting[-1][0] == size:
            total, size = add(waiting.pop()[1], total), 2 * size
        waiting.append((size, total))
    total = waiting.pop()[1]
    while waiting:
        total = add(waiting.pop()[1], total)
    return total
