"""Optimal schedules against closed forms, and against a search that knows no recurrence."""

import heapq
import math
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ScheduleError
from engine.schedules.base import SlowTier
from engine.schedules.binomial import binomial_schedule
from engine.schedules.revolve import fewest_forward_steps, longest_run, num_visits
from engine.schedules.simulator import measure
from engine.schedules.sqrt import sqrt_schedule
from engine.schedules.trees import (
    Delete,
    Forward,
    Load,
    Reverse,
    Save,
    Tier,
    kary_schedule,
    whole_run,
)
from engine.schedules.two_level import TwoLevel, two_level_schedule


def moves(place, num_slots, slow):
    """All that an interpreter could do next, each with its price.

    A place is (steps left, working state, states in the fast tier, states in the slow one).
    """
    left, working, fast, slowly = place
    yield from ((0, (left, step, fast, slowly)) for step in fast)
    yield from ((0, (left, working, fast - {step}, slowly)) for step in fast if slow or step)
    if slow:
        yield from ((slow.load_cost, (left, step, fast, slowly)) for step in slowly)
        yield from ((0, (left, working, fast, slowly - {step})) for step in slowly if step)
    if working is None:
        return
    if working < left - 1:
        yield 1, (left, working + 1, fast, slowly)
    if working == left - 1:
        yield 0, (left - 1, working, fast, slowly)
    if len(fast | {working}) <= num_slots:
        yield 0, (left, working, fast | {working}, slowly)
    if slow and (slow.num_slots is None or len(slowly | {working}) <= slow.num_slots + 1):
        price = 0 if working in slowly else slow.save_cost
        yield price, (left, working, fast, slowly | {working})


def least_cost(num_steps, num_slots, slow=None):
    """Search all orders of actions for the cheapest one that reverses ``num_steps``: Dijkstra.

    The first state is in the slow tier if there is one, else in the fast one; both are the
    caller's.
    """
    nowhere, kept = frozenset(), frozenset({0})
    order = count()
    queue = [(0.0, next(order), (num_steps, None, *((nowhere, kept) if slow else (kept, nowhere))))]
    done = set()
    while True:
        cost, _, place = heapq.heappop(queue)
        if place[0] == 0:
            return cost
        if place not in done:
            done.add(place)
            for price, following in moves(place, num_slots, slow):
                heapq.heappush(queue, (cost + price, next(order), following))


def reversed_steps(actions):
    return [action.step for action in actions if isinstance(action, Reverse)]


def two_level_cost(cost, slow):
    """Price what the simulator counted as ``TwoLevel`` does."""
    slow_work = slow.save_cost * cost.saves[slow.tier] + slow.load_cost * cost.loads[slow.tier]
    return cost.forward_steps + slow_work


def test_binomial_schedule_of_four_steps_and_two_slots_is_this_plan():
    """The smallest plan that replays: beta(2, 2) = 6 >= 4, so no step runs more than twice."""
    plan = list(binomial_schedule(4, 2))

    assert plan == [
        Load(0), Forward(0, 2), Save(2),
        Load(2), Forward(2, 3), Reverse(3), Load(2), Reverse(2), Delete(2),
        Load(0), Forward(0, 1), Save(1), Load(1), Reverse(1), Delete(1),
        Load(0), Reverse(0),
    ]  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(
    num_steps=st.integers(1, 200),
    num_slots=st.integers(1, 40),
    start=st.integers(0, 50),
    tier=st.sampled_from(Tier),
)
def test_binomial_schedule_costs_the_closed_form(num_steps, num_slots, start, tier):
    """t(T, s) = r T - beta(s + 1, r - 1), with exactly min(s, T) states, or it is no Revolve."""
    plan = list(binomial_schedule(num_steps, num_slots, start=start, tier=tier))

    cost = measure(plan, start=start, tier=tier)

    r = num_visits(num_steps, num_slots)
    expected = r * num_steps - math.comb(num_slots + r, num_slots + 1)
    assert reversed_steps(plan) == list(range(start + num_steps - 1, start - 1, -1))
    assert cost.forward_steps == fewest_forward_steps(num_steps, num_slots) == expected
    assert cost.peak_saved[tier] <= min(num_slots, num_steps)


@pytest.mark.parametrize("num_slots", [1, 2, 3, 5, 12])
def test_closed_form_solves_the_recurrence(num_slots):
    """t(n, s) = min over j of j + t(n - j, s - 1) + t(j, s), by trying every j up to n = 60."""
    table = {(1, s): 0 for s in range(1, num_slots + 1)}
    for n in range(2, 61):
        table[n, 1] = n * (n - 1) // 2
        for s in range(2, num_slots + 1):
            table[n, s] = min(j + table[n - j, s - 1] + table[j, s] for j in range(1, n))

    assert [fewest_forward_steps(n, num_slots) for n in range(1, 61)] == [
        table[n, num_slots] for n in range(1, 61)
    ]


@pytest.mark.parametrize(("num_steps", "num_slots"), [(2, 1), (4, 2), (6, 2), (7, 3)])
def test_no_order_of_actions_beats_the_binomial_schedule(num_steps, num_slots):
    """The search may save, drop and load in any order, also where no tree does."""
    found = measure(binomial_schedule(num_steps, num_slots), start=0).forward_steps

    assert found == least_cost(num_steps, num_slots)


@settings(deadline=None, max_examples=40)
@given(num_steps=st.integers(1, 200), arity=st.integers(2, 30))
def test_no_schedule_beats_the_binomial_bound_at_equal_memory(num_steps, arity):
    """A tree that seemed to need fewer steps would be counted wrongly, or lose a state."""
    for plan in (kary_schedule(num_steps, arity), sqrt_schedule(num_steps)):
        cost = measure(plan, start=0)

        bound = fewest_forward_steps(num_steps, cost.peak_saved[Tier.MEMORY])
        assert cost.forward_steps >= bound


@given(num_slots=st.integers(1, 30), visits=st.integers(0, 6))
def test_longest_run_is_where_one_more_visit_is_needed(num_slots, visits):
    """beta(s, r) steps need r visits, one more step needs r + 1."""
    longest = longest_run(num_slots, visits)

    assert num_visits(longest, num_slots) == visits
    assert num_visits(longest + 1, num_slots) == visits + 1


SLOW = [
    SlowTier(save_cost=1.0, load_cost=1.0),
    SlowTier(save_cost=0.5, load_cost=0.25),
    SlowTier(save_cost=0.0, load_cost=0.0),
    SlowTier(save_cost=3.0, load_cost=2.0),
    SlowTier(save_cost=0.5, load_cost=0.5, num_slots=1),
    SlowTier(save_cost=0.25, load_cost=1.0, num_slots=2),
    SlowTier(save_cost=1.0, load_cost=1.0, num_slots=0),
]


@pytest.mark.parametrize("slow", SLOW, ids=str)
@pytest.mark.parametrize(("num_steps", "num_slots"), [(1, 1), (5, 1), (5, 2)])
def test_no_order_of_actions_beats_the_two_level_schedule(num_steps, num_slots, slow):
    """With prices on the slow tier, against a search over all saves and loads of both tiers."""
    cost = measure(two_level_schedule(num_steps, num_slots, slow), start=0, tier=slow.tier)

    assert two_level_cost(cost, slow) == pytest.approx(least_cost(num_steps, num_slots, slow))


@settings(deadline=None, max_examples=30)
@given(
    num_steps=st.integers(1, 80),
    num_slots=st.integers(1, 8),
    save_cost=st.sampled_from([0.0, 0.3, 1.0, 7.0]),
    load_cost=st.sampled_from([0.0, 0.3, 1.0, 7.0]),
    slow_slots=st.sampled_from([None, 0, 1, 3]),
)
def test_two_level_schedule_costs_what_its_recurrence_says(
    num_steps, num_slots, save_cost, load_cost, slow_slots
):
    """Within both tiers' slots, and never dearer than the fast tier alone."""
    slow = SlowTier(save_cost, load_cost, slow_slots, Tier.HOST)
    plan = list(two_level_schedule(num_steps, num_slots, slow, start=5))

    cost = measure(plan, start=5, tier=Tier.HOST)

    assert reversed_steps(plan) == list(range(num_steps + 4, 4, -1))
    assert two_level_cost(cost, slow) == pytest.approx(TwoLevel(num_steps, num_slots, slow).cost)
    assert cost.peak_saved[Tier.MEMORY] <= num_slots
    assert slow_slots is None or cost.peak_saved[Tier.HOST] <= slow_slots + 1
    alone = fewest_forward_steps(num_steps, num_slots) + load_cost
    assert two_level_cost(cost, slow) <= alone + 1e-9


def test_free_slow_tier_makes_every_step_run_once():
    """Where saving and loading cost nothing, it is store-all with one state in memory."""
    slow = SlowTier(save_cost=0.0, load_cost=0.0)

    cost = measure(two_level_schedule(50, 1, slow), start=0, tier=Tier.STORE)

    assert cost.forward_steps == 49


@pytest.mark.parametrize("slow", [SlowTier(1.0, 1.0), SlowTier(0.1, 0.1, 2)], ids=str)
def test_whole_run_with_two_levels_trains_once_and_leaves_nothing(slow):
    """The plan's first descent is the training, also when its first state is in the slow tier."""

    def plan(num_steps, start):
        return two_level_schedule(num_steps, 2, slow, start=start)

    cost = measure(whole_run(30, plan, first_step=4, tier=slow.tier))

    reverse = measure(plan(26, 4), start=4, tier=slow.tier)
    assert cost.forward_steps == 4 + reverse.forward_steps + 1
    assert cost.reverse_steps == 26


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: binomial_schedule(0, 2), "num_steps.*got 0"),
        (lambda: binomial_schedule(5, 0), "num_slots.*got 0.*num_slots=1"),
        (lambda: two_level_schedule(5, 0, SlowTier()), "num_slots.*got 0"),
        (lambda: two_level_schedule(5, 1, SlowTier(save_cost=-1.0)), "negative"),
    ],
)
def test_impossible_counts_are_refused(make, reason):
    """Before the first step, with the number and a remedy."""
    with pytest.raises(ScheduleError, match=reason):
        make()
