"""Input of a reverse schedule, and the description that ends the file of each one."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from engine.recipes.replay import ReplaySettings
from engine.schedules.trees import Action, Tier


@dataclass(frozen=True)
class SlowTier:
    """The slow tier of a schedule with two tiers.

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


@dataclass(frozen=True)
class ScheduleRequest:
    """What a reverse schedule is made from, besides the range of steps.

    Attributes:
        replay: Settings; a schedule reads its own.
        tier: Where states are kept; the fast one of two tiers.
        slow: The slow tier, for schedules that have one.
    """

    replay: ReplaySettings = ReplaySettings()
    tier: Tier = Tier.MEMORY
    slow: SlowTier = SlowTier(tier=Tier.HOST)

    def slots(self, num_steps: int) -> int:
        """Return ``num_slots``: by default the states that the k-ary tree of that arity keeps."""
        if self.replay.num_slots is not None:
            return self.replay.num_slots
        arity = self.replay.arity
        depth = math.ceil(round(math.log(num_steps, arity), 9))
        return (arity - 1) * depth + 1


@dataclass(frozen=True)
class Room:
    """The memory that a schedule has to fit into, in states.

    Attributes:
        num_steps: Steps of the longest range; with graphs kept, blocks of steps.
        slots: States that fit where a schedule of one tier keeps them.
        fast_slots: States that fit into the fast one of two tiers.
        slow_slots: States that fit into the slow one; None where there is no second tier.
        slow_cost: Plain steps that a save to the slow tier, or a load from it, takes.
    """

    num_steps: int
    slots: int
    fast_slots: int
    slow_slots: int | None
    slow_cost: float


def _as_it_is(_room: Room) -> Iterator[Mapping[str, object]]:
    yield {}


@dataclass(frozen=True)
class Schedule:
    """A reverse schedule; ``engine.schedules.by_name`` finds it by its file's name.

    The settings that it reads are listed in ``engine.recipes.replay.READS``.

    Attributes:
        make: Maps (request, number of steps, first step) to the actions of the schedule.
        worth_a_try: Yields the settings that a planner compares, given the room there is; by
            default one candidate without any.
        starts_in_slow_tier: Whether s_start lies in the slow tier.
    """

    make: Callable[[ScheduleRequest, int, int], Iterator[Action]]
    worth_a_try: Callable[[Room], Iterator[Mapping[str, object]]] = _as_it_is
    starts_in_slow_tier: bool = False
