"""The schedule that keeps every state."""

from collections.abc import Iterator

from engine.schedules.base import Schedule
from engine.schedules.trees import Action, Tier, kary_schedule


def store_all_schedule(
    num_steps: int, *, start: int = 0, tier: Tier = Tier.MEMORY
) -> Iterator[Action]:
    """Plan a reverse sweep that keeps every state: the least replay, the most storage.

    Args:
        num_steps: T, steps to reverse, at least 1.
        start: First step of the range.
        tier: Where states are kept.

    Cost:
        T saved states and T - 1 steps run forward. It is the k-ary tree with k = T.
    """
    return kary_schedule(num_steps, max(num_steps, 2), start=start, tier=tier)


SCHEDULE = Schedule(
    lambda request, num_steps, start: store_all_schedule(num_steps, start=start, tier=request.tier)
)
