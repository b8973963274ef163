"""Schedules by name: what the settings of a replay stand for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.errors import ScheduleError
from engine.recipes.replay import ReplayConfig, ScheduleName
from engine.schedules.revolve import SlowTier, binomial_schedule, two_level_schedule
from engine.schedules.trees import (
    Action,
    Tier,
    kary_schedule,
    sqrt_schedule,
    store_all_schedule,
    unrolled,
)


@dataclass(frozen=True)
class NamedPlan:
    """A ``Plan``: makes the reverse schedule of any range of steps.

    Attributes:
        schedule: Which one; all but auto.
        arity: k, for the k-ary tree.
        num_slots: s, for binomial and, in the fast tier, two-level; as many states as the k-ary
            tree of that arity keeps by default.
        unroll: u, graphs alive at once.
        tier: Where states are kept; the fast tier of two-level.
        slow: The slow tier, for two-level.
    """

    schedule: ScheduleName = ScheduleName.KARY
    arity: int = 4
    num_slots: int | None = None
    unroll: int = 1
    tier: Tier = Tier.MEMORY
    slow: SlowTier = SlowTier(tier=Tier.HOST)

    @property
    def first_tier(self) -> Tier:
        """Where a plan finds its first state."""
        return self.slow.tier if self.schedule is ScheduleName.TWO_LEVEL else self.tier

    def __call__(self, num_steps: int, start: int) -> Iterator[Action]:
        """Yield the reverse schedule of ``num_steps`` steps from ``start`` on."""
        return unrolled(num_steps, self.unroll, self._blocks, start=start)

    def _blocks(self, num_steps: int, start: int) -> Iterator[Action]:
        """Yield the schedule of steps that are reversed one by one."""
        match self.schedule:
            case ScheduleName.STORE_ALL:
                return store_all_schedule(num_steps, start=start, tier=self.tier)
            case ScheduleName.SQRT:
                return sqrt_schedule(num_steps, start=start, tier=self.tier)
            case ScheduleName.BINOMIAL:
                slots = self.slots(num_steps)
                return binomial_schedule(num_steps, slots, start=start, tier=self.tier)
            case ScheduleName.TWO_LEVEL:
                # A block is up to u steps: measured in blocks, the slow tier is that much cheaper.
                scale = 1 / self.unroll
                slow = replace(
                    self.slow,
                    save_cost=self.slow.save_cost * scale,
                    load_cost=self.slow.load_cost * scale,
                )
                slots = self.slots(num_steps)
                return two_level_schedule(num_steps, slots, slow, start=start, tier=self.tier)
            case _:
                return kary_schedule(num_steps, self.arity, start=start, tier=self.tier)

    def slots(self, num_steps: int) -> int:
        """Return ``num_slots`` with its default filled in."""
        if self.num_slots is not None:
            return self.num_slots
        depth = math.ceil(round(math.log(num_steps, self.arity), 9))
        return (self.arity - 1) * depth + 1


def make_plan(
    schedule: ScheduleName | str,
    arity: int = 4,
    tier: Tier = Tier.MEMORY,
    *,
    num_slots: int | None = None,
    unroll: int = 1,
    slow: SlowTier | None = None,
) -> NamedPlan:
    """Return the planner of reverse schedules that a name stands for.

    Args:
        schedule: One of ``ScheduleName`` but auto, which ``engine.planning.choice`` resolves.
        arity: k of the k-ary tree.
        tier: Where states are kept; the fast tier of two-level.
        num_slots: States kept at once, for binomial and two-level; see ``NamedPlan``.
        unroll: Graphs kept at once.
        slow: The slow tier of two-level; the host's memory by default.

    Raises:
        ScheduleError: If there is no such schedule, or a number is below its minimum.
    """
    names = [name.value for name in ScheduleName if name is not ScheduleName.AUTO]
    if schedule not in names:
        raise ScheduleError(f"There is no schedule {schedule!r}. Use one of {', '.join(names)}.")
    plan = NamedPlan(
        schedule=ScheduleName(schedule),
        arity=arity,
        num_slots=num_slots,
        unroll=unroll,
        tier=tier,
        slow=slow or SlowTier(tier=Tier.HOST),
    )
    kary_schedule(1, arity)  # refuses what is impossible before anything is trained
    list(plan(1, 0))
    return plan


def plan_of(replay: ReplayConfig, *, in_store: bool = False) -> NamedPlan:
    """Return what the settings of a replay stand for.

    Args:
        replay: The settings.
        in_store: Whether states are kept in a store and not in memory; of two-level, those of the
            slow tier.

    Raises:
        ScheduleError: If the schedule is auto, which has to be resolved first.
    """
    two_levels = replay.schedule is ScheduleName.TWO_LEVEL
    slow = Tier.STORE if in_store else Tier.HOST
    return make_plan(
        replay.schedule,
        replay.arity,
        Tier.STORE if in_store and not two_levels else Tier.MEMORY,
        num_slots=replay.num_slots,
        # Where memory ran out and steps are cut, graphs of whole steps do not fit either.
        unroll=replay.unroll if replay.micro_batch is None else 1,
        slow=SlowTier(replay.slow_cost, replay.slow_cost, replay.slow_slots, slow),
    )
