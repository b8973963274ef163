"""Blocks of about sqrt(T) steps, each kept whole in its turn."""

import math
from collections.abc import Iterator

from engine.schedules.base import Schedule
from engine.schedules.trees import Action, Tier, kary_schedule


def sqrt_schedule(num_steps: int, *, start: int = 0, tier: Tier = Tier.MEMORY) -> Iterator[Action]:
    """Plan a reverse sweep over blocks of about sqrt(T) steps, each kept whole in its turn.

    Args:
        num_steps: T, steps to reverse, at least 1.
        start: First step of the range.
        tier: Where states are kept.

    Cost:
        With m = ceil(sqrt(T)): at most 2 m - 1 saved states and 2 (T - m) forward steps if T is
        m^2. It is the k-ary tree with k = m, two levels deep.
    """
    return kary_schedule(num_steps, max(math.isqrt(num_steps - 1) + 1, 2), start=start, tier=tier)


SCHEDULE = Schedule(
    lambda request, num_steps, start: sqrt_schedule(num_steps, start=start, tier=request.tier)
)
