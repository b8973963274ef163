"""The schedule with the fewest forward steps for a number of saved states (Revolve).

Steps are reversed one by one; ``engine.schedules.trees.unrolled`` keeps graphs.
"""

from collections.abc import Iterator, Mapping

from engine.schedules.base import Room, Schedule, ScheduleRequest
from engine.schedules.revolve import check_counts, reverse_in_slots
from engine.schedules.trees import Action, Tier


def binomial_schedule(
    num_steps: int, num_slots: int, *, start: int = 0, tier: Tier = Tier.MEMORY
) -> Iterator[Action]:
    """Plan the reverse sweep with the fewest forward steps that ``num_slots`` states allow.

    Args:
        num_steps: T, steps to reverse, at least 1.
        num_slots: s, states saved at once, s_start among them; at least 1. From T on it is
            store-all.
        start: First step of the range.
        tier: Where states are kept.

    Raises:
        ScheduleError: If ``num_steps`` or ``num_slots`` is below 1.

    Cost:
        Exactly min(s, T) saved states and t(T, s) = r T - beta(s + 1, r - 1) forward steps, with r
        the least for which beta(s, r) = C(s + r, s) >= T. No schedule needs fewer:
        ``tests/engine/schedules/test_revolve.py`` compares with an exhaustive search.

    References:
        Griewank and Walther 2000, Algorithm 799 (Revolve), doi:10.1145/347837.347846.
    """
    check_counts(num_steps, num_slots)
    return reverse_in_slots(start, start + num_steps, min(num_slots, num_steps), tier)


def _make(request: ScheduleRequest, num_steps: int, start: int) -> Iterator[Action]:
    return binomial_schedule(num_steps, request.slots(num_steps), start=start, tier=request.tier)


def _worth_a_try(room: Room) -> Iterator[Mapping[str, object]]:
    # With fewer slots the same schedule needs more steps: the most that fit, and the leanest.
    yield from ({"num_slots": number} for number in sorted({max(room.slots, 1), 1}))


SCHEDULE = Schedule(_make, _worth_a_try)
