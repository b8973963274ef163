"""What settings make of the schedule of two tiers; its cost is compared in ``test_revolve.py``."""

import pytest

from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.schedules.base import Room, ScheduleRequest, SlowTier
from engine.schedules.trees import Tier
from engine.schedules.two_level import SCHEDULE, two_level_schedule


@pytest.mark.parametrize("unroll", [1, 4])
def test_where_graphs_are_kept_the_slow_tier_costs_less_beside_a_block(unroll):
    """Costs are told in steps, and a block of four steps is run again as a whole."""
    replay = ReplaySettings(schedule=ScheduleName.TWO_LEVEL, num_slots=2, unroll=unroll)

    found = list(SCHEDULE.make(ScheduleRequest(replay, slow=SlowTier(8.0, 6.0)), 20, 0))

    assert found == list(two_level_schedule(20, 2, SlowTier(8.0 / unroll, 6.0 / unroll)))
    other = list(two_level_schedule(20, 2, SlowTier(8.0, 6.0)))
    assert (found == other) is (unroll == 1)


@pytest.mark.parametrize(
    ("room", "tried"),
    [
        (Room(9, 3, 2, 4, 1.5), {"num_slots": 2, "slow_slots": 3, "slow_cost": 1.5}),
        (Room(9, 3, 0, 4, 1.5), {"num_slots": 1, "slow_slots": 3, "slow_cost": 1.5}),
        (Room(9, 3, 2, 0, 1.5), {"num_slots": 2, "slow_slots": 0, "slow_cost": 1.5}),
        (Room(9, 3, 2, 9, 1.5), {"num_slots": 2, "slow_slots": None, "slow_cost": 1.5}),
        (Room(9, 3, 2, None, 1.5), None),  # no second tier
        (Room(9, 9, 9, 4, 1.5), None),  # the fast tier holds them all
    ],
)
def test_a_planner_tries_what_fits(room, tried):
    """One state of the slow tier is the first one, which no slot is counted for."""
    assert list(SCHEDULE.worth_a_try(room)) == ([] if tried is None else [tried])


def test_its_first_state_is_in_the_slow_tier():
    """Whoever puts it there asks this."""
    first, *_ = SCHEDULE.make(ScheduleRequest(slow=SlowTier(tier=Tier.STORE)), 5, 3)

    assert SCHEDULE.starts_in_slow_tier
    assert (first.step, first.tier) == (3, Tier.STORE)
