"""Optimal schedules: the binomial one for one tier, its two-level form for a fast and a slow one.

The binomial schedule reverses T steps with the fewest forward steps that s saved states allow; s
counts s_start, which the caller has saved. The two-level one also weighs what a save to, and a
load from, a slow tier costs. Both reverse steps one by one; ``engine.schedules.trees.unrolled``
turns them into schedules that keep graphs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np

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
    _check_counts(num_steps, num_slots)
    return _reverse(start, start + num_steps, min(num_slots, num_steps), tier)


def _reverse(start: int, stop: int, num_slots: int, tier: Tier) -> Iterator[Action]:
    """Reverse steps ``[start, stop)`` with s_start in one of the slots."""
    while stop - start > 1 and num_slots > 1:
        middle = start + _first_part(stop - start, num_slots)
        yield Load(start, tier)
        yield Forward(start, middle)
        yield Save(middle, tier)
        yield from _reverse(middle, stop, num_slots - 1, tier)
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


@dataclass(frozen=True)
class SlowTier:
    """What the slow tier of a two-level schedule is.

    Attributes:
        save_cost: Cost of one save, in plain steps.
        load_cost: Cost of one load, in plain steps.
        num_slots: States it holds at once besides s_start; as many as pay by default.
        tier: Which one it is.
    """

    save_cost: float = 1.0
    load_cost: float = 1.0
    num_slots: int | None = None
    tier: Tier = Tier.STORE


def two_level_schedule(
    num_steps: int,
    num_slots: int,
    slow: SlowTier,
    *,
    start: int = 0,
    tier: Tier = Tier.MEMORY,
) -> Iterator[Action]:
    """Plan the cheapest reverse sweep with states in a fast tier and in a slow one.

    s_start is in the slow tier. The cost is the number of forward steps, plus what saves to and
    loads from the slow tier cost; the fast tier is free.

    Args:
        num_steps: T, steps to reverse, at least 1.
        num_slots: States in the fast tier at once, at least 1.
        slow: The slow tier.
        start: First step of the range.
        tier: The fast tier.

    Raises:
        ScheduleError: If a count is below its minimum, or a cost below 0.

    Cost:
        That of ``TwoLevel.cost``; ``tests/engine/schedules/test_revolve.py`` compares with an
        exhaustive search. Planning takes O(T^2) operations for each slot of the slow tier, or once
        if there are as many as pay.

    References:
        Stumm and Walther 2009, doi:10.1137/080718036 (checkpoints in two stages); Aupy, Herrmann,
        Hovland and Robert 2016, doi:10.1137/15M1019222 (costs).
    """
    _check_counts(num_steps, num_slots)
    if slow.save_cost < 0 or slow.load_cost < 0 or (slow.num_slots or 0) < 0:
        raise ScheduleError(f"{slow} has a negative number in it. Use 0 or more.")
    return TwoLevel(num_steps, num_slots, slow, tier).actions(start)


_FAST, _FAST_CHILD, _SLOW_CHILD = 0, 1, 2
"""Ways to go on from a state in the slow tier: see ``TwoLevel``."""


@dataclass(frozen=True)
class TwoLevel:
    """The recurrence behind ``two_level_schedule``.

    W(n, d), the least cost of reversing n steps whose first state is in the slow tier and at hand,
    with all fast slots and d slow ones free, is the least of

    - t(n, s): copy the first state into the fast tier, and go on there alone;
    - j + t(n - j, s) + R + W(j, d): the rest alone goes on in the fast tier;
    - j + w + W(n - j, d - 1) + R + W(j, d): the rest starts from another state in the slow tier;

    over 0 < j < n, where w is the cost of a save and R that of a load, which brings the first state
    back.
    """

    num_steps: int
    num_slots: int
    slow: SlowTier
    tier: Tier = Tier.MEMORY

    @property
    def cost(self) -> float:
        """Least cost in plain steps, the load that it begins with among them."""
        return float(self._tables[0][self._depth][self.num_steps]) + self.slow.load_cost

    def actions(self, start: int = 0) -> Iterator[Action]:
        """Yield the schedule of that cost."""
        yield Load(start, self.slow.tier)
        yield from self._walk(start, start + self.num_steps, self._depth)

    @property
    def _depth(self) -> int:
        """Index of the table to begin with: d, or 0 where slow slots are not counted."""
        return 0 if self.slow.num_slots is None else min(self.slow.num_slots, self.num_steps)

    @cached_property
    def _tables(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """W, the way and j, by d and n."""
        total, load, save = self.num_steps, self.slow.load_cost, self.slow.save_cost
        fast = np.array(
            [0] + [fewest_forward_steps(n, self.num_slots) for n in range(1, total + 1)]
        )
        fast = fast.astype(float)
        steps = np.arange(total + 1, dtype=float)
        counted = self.slow.num_slots is not None
        costs: list[np.ndarray] = []
        ways: list[np.ndarray] = []
        parts: list[np.ndarray] = []
        for d in range(self._depth + 1):
            cost, way, part = fast.copy(), np.zeros(total + 1, int), np.zeros(total + 1, int)
            below = None if counted and d == 0 else costs[d - 1] if counted else cost
            for n in range(2, total + 1):
                first = steps[1:n] + load + cost[1:n]  # j = 1, ..., n - 1
                options = [(_FAST_CHILD, first + fast[n - 1 : 0 : -1])]
                if below is not None:
                    options.append((_SLOW_CHILD, first + save + below[n - 1 : 0 : -1]))
                for kind, values in options:
                    best = int(values.argmin())
                    if values[best] < cost[n]:
                        cost[n], way[n], part[n] = values[best], kind, best + 1
            costs.append(cost)
            ways.append(way)
            parts.append(part)
        return costs, ways, parts

    def _walk(self, start: int, stop: int, depth: int) -> Iterator[Action]:
        """Reverse steps ``[start, stop)``, given that s_start is at hand and in the slow tier."""
        _, ways, parts = self._tables
        while ways[depth][stop - start] != _FAST:
            middle = start + int(parts[depth][stop - start])
            to_slow = ways[depth][stop - start] == _SLOW_CHILD
            tier = self.slow.tier if to_slow else self.tier
            yield Forward(start, middle)
            yield Save(middle, tier)
            if to_slow:
                yield from self._walk(middle, stop, max(depth - 1, 0))
            else:
                slots = min(self.num_slots, stop - middle)
                yield from _reverse(middle, stop, slots, self.tier)
            yield Delete(middle, tier)
            yield Load(start, self.slow.tier)
            stop = middle
        if stop - start == 1:
            yield Reverse(start)
            return
        yield Save(start, self.tier)
        yield from _reverse(start, stop, min(self.num_slots, stop - start), self.tier)
        yield Delete(start, self.tier)


def _check_counts(num_steps: int, num_slots: int) -> None:
    if num_steps < 1:
        raise ScheduleError(f"num_steps must be at least 1, got {num_steps}. Train for a step.")
    if num_slots < 1:
        raise ScheduleError(
            f"num_slots must be at least 1, got {num_slots}: the state that the sweep starts from "
            "takes one. Use num_slots=1 for the least storage."
        )
