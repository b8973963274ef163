"""The cheapest schedule with states in a fast and in a slow tier.

It weighs the steps that are run again against the cost of saves to, and loads from, the slow tier.
Steps are reversed one by one; ``engine.schedules.trees.unrolled`` keeps graphs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from engine.errors import ScheduleError
from engine.schedules.base import Room, Schedule, ScheduleRequest, SlowTier
from engine.schedules.revolve import check_counts, fewest_forward_steps, reverse_in_slots
from engine.schedules.trees import Action, Delete, Forward, Load, Reverse, Save, Tier


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
    check_counts(num_steps, num_slots)
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
                yield from reverse_in_slots(middle, stop, slots, self.tier)
            yield Delete(middle, tier)
            yield Load(start, self.slow.tier)
            stop = middle
        if stop - start == 1:
            yield Reverse(start)
            return
        yield Save(start, self.tier)
        yield from reverse_in_slots(start, stop, min(self.num_slots, stop - start), self.tier)
        yield Delete(start, self.tier)


def _make(request: ScheduleRequest, num_steps: int, start: int) -> Iterator[Action]:
    # A block is up to u steps: measured in blocks, the slow tier is that much cheaper.
    scale, slow = 1 / request.replay.unroll, request.slow
    slow = replace(slow, save_cost=slow.save_cost * scale, load_cost=slow.load_cost * scale)
    slots = request.slots(num_steps)
    return two_level_schedule(num_steps, slots, slow, start=start, tier=request.tier)


def _worth_a_try(room: Room) -> Iterator[Mapping[str, object]]:
    if room.slow_slots is not None and room.fast_slots < room.num_steps:
        all_fit = room.slow_slots >= room.num_steps
        yield {
            "num_slots": max(room.fast_slots, 1),
            "slow_slots": None if all_fit else max(room.slow_slots - 1, 0),
            "slow_cost": room.slow_cost,
        }


SCHEDULE = Schedule(_make, _worth_a_try, starts_in_slow_tier=True)
