"""Counts of optimal schedules: the fewest forward steps for a number of saved states.

T steps are reversed with s saved states; s counts s_start, which the caller has saved.
"""

from collections.abc import Iterator
from math import comb

from engine.errors import ScheduleError
from engine.schedules.trees import Action, Delete, Forward, Load, Reverse, Save, Tier


def longest_run(num_slots: int, num_visits: int) -> int:
    """Return beta(s, r) = C(s + r, s): steps reversible if none is run forward more than r times.

    Args:
        num_slots: s, states saved at once, s_start among them.
        num_visits: r; -1 and below give 0.

    References:
        Griewank and Walther 2000, Algorithm 799, doi:10.1145/347837.347846.
    """
    return comb(num_slots + num_visits, num_slots) if num_visits >= 0 else 0


def num_visits(num_steps: int, num_slots: int) -> int:
    """Return r, the least for which beta(s, r) >= T."""
    visits = 0
    while longest_run(num_slots, visits) < num_steps:
        visits += 1
    return visits


def fewest_forward_steps(num_steps: int, num_slots: int) -> int:
    """Return t(T, s) = r T - beta(s + 1, r - 1): the fewest steps run forward to reverse T.

    Args:
        num_steps: T, given that s_start is saved; the step that is reversed is not run forward.
        num_slots: s, states saved at once, s_start among them.
    """
    visits = num_visits(num_steps, num_slots)
    return visits * num_steps - longest_run(num_slots + 1, visits - 1)


def reverse_in_slots(start: int, stop: int, num_slots: int, tier: Tier) -> Iterator[Action]:
    """Reverse steps ``[start, stop)`` with s_start in one of the slots."""
    while stop - start > 1 and num_slots > 1:
        middle = start + _first_part(stop - start, num_slots)
        yield Load(start, tier)
        yield Forward(start, middle)
        yield Save(middle, tier)
        yield from reverse_in_slots(middle, stop, num_slots - 1, tier)
        yield Delete(middle, tier)
        stop = middle
    for step in range(stop - 1, start - 1, -1):
        yield Load(start, tier)
        if step > start:
            yield Forward(start, step)
        yield Reverse(step)


def _first_part(num_steps: int, num_slots: int) -> int:
    """Return how far to go before the next save; every choice in the range is optimal.

    The part before it is reversed later with s slots and r - 1 visits, the part after it with
    s - 1 slots and r visits. Taking the longest first part writes the fewest states.
    """
    visits = num_visits(num_steps, num_slots)
    return min(
        longest_run(num_slots, visits - 1),
        num_steps - longest_run(num_slots - 1, visits - 1),
    )


def check_counts(num_steps: int, num_slots: int) -> None:
    """Refuse a run of no step, or a sweep that may keep no state.

    Raises:
        ScheduleError: Says which.
    """
    if num_steps < 1:
        raise ScheduleError(f"num_steps must be at least 1, got {num_steps}. Train for a step.")
    if num_slots < 1:
        raise ScheduleError(
            f"num_slots must be at least 1, got {num_slots}: the state that the sweep starts from "
            "takes one. Use num_slots=1 for the least storage."
        )
