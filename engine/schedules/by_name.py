"""Schedules by name: what the settings of a replay stand for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.errors import ScheduleError
from engine.recipes.members import find_member
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.schedules.base import Room, Schedule, ScheduleRequest, SlowTier
from engine.schedules.trees import Action, Tier, kary_schedule, unrolled

NAMES = tuple(name for name in ScheduleName if name is not ScheduleName.AUTO)
"""Names that stand for a schedule; auto stands for the fastest of them."""


def schedule_of(name: ScheduleName) -> Schedule:
    """Return the schedule of a name: the last line of the file of that name."""
    return find_member("engine.schedules", name.value, "SCHEDULE")


def candidates(room: Room) -> Iterator[Mapping[str, object]]:
    """Yield settings of a replay that no other is sure to beat, every schedule's in turn."""
    for name in NAMES:
        for settings in schedule_of(name).worth_a_try(room):
            yield {"schedule": name, **settings}


@dataclass(frozen=True)
class NamedScheduleMaker(ScheduleRequest):
    """A ``ScheduleMaker`` of the schedule that the settings of a replay name."""

    @property
    def unroll(self) -> int:
        """u, graphs alive at once."""
        return self.replay.unroll

    @property
    def first_tier(self) -> Tier:
        """Where the first state of a range is saved before its schedule starts."""
        in_slow = schedule_of(self.replay.schedule).starts_in_slow_tier
        return self.slow.tier if in_slow else self.tier

    def __call__(self, num_steps: int, start: int) -> Iterator[Action]:
        """Yield the reverse schedule of ``num_steps`` steps from ``start`` on."""
        return unrolled(num_steps, self.unroll, self._blocks, start=start)

    def _blocks(self, num_steps: int, start: int) -> Iterator[Action]:
        """Yield the schedule of steps that are reversed one by one."""
        return schedule_of(self.replay.schedule).make(self, num_steps, start)


def schedule_maker(replay: ReplaySettings, *, in_store: bool = False) -> NamedScheduleMaker:
    """Return the maker of the schedules that the settings of a replay name.

    Args:
        replay: The settings.
        in_store: Whether states are kept in a store and not in memory; of two-level, those of the
            slow tier.

    Raises:
        ScheduleError: If the schedule is auto, which has to be resolved first.
    """
    if replay.schedule not in NAMES:
        names = ", ".join(name.value for name in NAMES)
        raise ScheduleError(f"schedule is auto, which is none by itself. Use one of {names}.")
    if replay.micro_batch is not None:
        # Where memory ran out and steps are cut, graphs of whole steps do not fit either.
        replay = replay.model_copy(update={"unroll": 1})
    two_tiers = schedule_of(replay.schedule).starts_in_slow_tier
    slow = Tier.STORE if in_store else Tier.HOST
    return _refusing_impossible(
        NamedScheduleMaker(
            replay,
            Tier.STORE if in_store and not two_tiers else Tier.MEMORY,
            SlowTier(replay.slow_cost, replay.slow_cost, replay.slow_slots, slow),
        )
    )


def _refusing_impossible(maker: NamedScheduleMaker) -> NamedScheduleMaker:
    """Return a maker; refuse impossible settings now, before anything is trained."""
    kary_schedule(1, maker.replay.arity)  # which the default of num_slots is counted from
    list(maker(1, 0))
    return maker
