"""Bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.extras import load


@dataclass(frozen=True)
class Interval:
    """A mean with a 95 % bootstrap interval; both ends are the mean where it has no spread."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean and its bootstrap interval, over queries."""
    mean = float(np.mean(values))
    if len(set(values)) < 2:
        return Interval(mean, mean, mean)
    drawn = np.random.default_rng(seed)
    statistics = load("scipy.stats", "An interval of a mean")
    found = statistics.bootstrap((list(values),), np.mean, method="percentile", rng=drawn)
    return Interval(
        mean, float(found.confidence_interval.low), float(found.confidence_interval.high)
    )
