"""Measure of how well a score tells two kinds of things apart."""

from jaxtyping import Bool, Float
from torch import Tensor, unique


def area_under_curve(inside: Bool[Tensor, " things"], scores: Float[Tensor, " things"]) -> float:
    """Return the AUC: how often a thing of the kind has a higher score than one that is not.

    Of two equal scores each counts a half. From ranks, in integers, so that it is rounded once.
    scikit-learn has the same number, and takes two seconds of computing time to be loaded, which
    was the most of the end of a small run.

    Args:
        inside: Which things are of the kind; some have to be, and some not.
        scores: Scores, one for each.

    Raises:
        ValueError: If all or none are of the kind, or a score is no number.

    References:
        Hanley and McNeil 1982, Radiology 143, 29-36.
    """
    number, others = int(inside.sum()), int((~inside).sum())
    if not number or not others or scores.isnan().any():
        raise ValueError("an AUC is of two kinds of things, which all have a score")
    _, place, counts = unique(scores, return_inverse=True, return_counts=True)
    twice_ranks = 2 * counts.cumsum(0) - counts + 1  # equal scores share their mean rank
    above = int(twice_ranks[place[inside]].sum()) - number * (number + 1)
    return above / (2 * number * others)
