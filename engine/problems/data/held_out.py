"""Rows that are drawn to be held out, and how no class is held out whole."""

from collections import Counter
from collections.abc import Hashable, Sequence

import torch

from engine.numerics.determinism import generator

_SHOWN = 5
"""Classes by name in a sentence."""


def held_out_places(
    total: int, share: float, seed: int, classes: Sequence[Hashable] = ()
) -> tuple[list[int], list[int]]:
    """Return the places of the rows that stay and of those that are held out, both in order.

    Of each class at least one row stays, as a model cannot tell a class that it has not seen: where
    the draw leaves none, the first row of the class that it has drawn stays.

    Args:
        total: Rows.
        share: Share of them that is held out, at least one row and not all.
        seed: Seeds the draw.
        classes: The class of each row, None if it has none; empty if there are none at all.

    Returns:
        Both lists; the second is empty if there are too few rows to hold any out.
    """
    number = min(max(round(share * total), 1), total - 1)
    if number < 1:
        return list(range(total)), []
    order = torch.randperm(total, generator=generator(seed, "held-out rows")).tolist()
    held, kept = order[:number], order[number:]
    seen = {None, *(classes[place] for place in kept)} if classes else set()
    for place in [*held] if classes else ():
        if classes[place] not in seen:
            seen.add(classes[place])
            held.remove(place)
            kept.append(place)
    return sorted(kept), sorted(held)


def notes_of_single_classes(classes: Sequence[str], what: str) -> list[str]:
    """Say which classes have one row, which is trained on and never judged.

    Args:
        classes: The class of each row.
        what: What has the classes, e.g. "The label 'mood'".
    """
    single = sorted(name for name, rows in Counter(classes).items() if rows == 1)
    if not single:
        return []
    shown = ", ".join(single[:_SHOWN]) + (", ..." if len(single) > _SHOWN else "")
    if len(single) == 1:
        return [f"{what} has one example of {shown}, which is trained on and not held out."]
    return [
        f"{what} has {len(single)} classes of one example each, which are trained on and not held "
        f"out: {shown}."
    ]
