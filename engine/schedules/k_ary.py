"""The lazy k-ary tree of the paper."""

from collections.abc import Iterator, Mapping

from engine.schedules.base import Room, Schedule, ScheduleRequest
from engine.schedules.trees import Action, kary_schedule

_ARITIES = (2, 4, 8)


def _make(request: ScheduleRequest, num_steps: int, start: int) -> Iterator[Action]:
    return kary_schedule(num_steps, request.replay.arity, start=start, tier=request.tier)


def _worth_a_try(room: Room) -> Iterator[Mapping[str, object]]:
    yield from ({"arity": arity} for arity in _ARITIES if arity < room.num_steps)


SCHEDULE = Schedule(_make, _worth_a_try)
