"""Curves of a run as numbers: what is drawn over those of other runs, or sent to a tracker."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """One quantity of a run by another.

    Attributes:
        name: What it is, the same in every run that has it: ``validation loss``.
        by: What it is a function of, e.g. ``outer step``.
        points: Pairs of where and what, in order.
    """

    name: str
    by: str
    points: Sequence[tuple[float, float]]


def numbers_in(content: object, name: str = "") -> dict[str, float]:
    """Return the numbers of a JSON value by where they stand, joined by dots.

    Lists are left out: what has one entry for each step, example or direction is a curve or a
    table, and no figure.
    """
    if isinstance(content, dict):
        found: dict[str, float] = {}
        for key, each in content.items():
            found |= numbers_in(each, f"{name}.{key}" if name else str(key))
        return found
    if isinstance(content, int | float) and not isinstance(content, bool):
        return {name: float(content)}
    return {}
