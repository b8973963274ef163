"""Schedules on integers: what they do, what they cost, and what is refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ScheduleError
from engine.schedules.simulator import measure
from engine.schedules.sqrt import sqrt_schedule
from engine.schedules.store_all import store_all_schedule
from engine.schedules.trees import (
    Delete,
    Forward,
    Load,
    Reverse,
    Save,
    Seed,
    Tier,
    Trace,
    kary_schedule,
    unrolled,
    whole_run,
)


def run_cost(num_steps, arity, first_step=0):
    def plan(count, start):
        return kary_schedule(count, arity, start=start)

    return measure(whole_run(num_steps, plan, first_step=first_step))


def reversed_steps(actions):
    return [action.step for action in actions if isinstance(action, Reverse)]


def test_kary_schedule_of_four_steps_is_this_plan():
    """The smallest plan with two levels, written out: read this to learn the vocabulary."""
    plan = list(kary_schedule(num_steps=4, arity=2))

    assert plan == [
        Load(0), Forward(0, 2), Save(2),
        Load(2), Forward(2, 3), Save(3),
        Load(3), Reverse(3), Delete(3),
        Load(2), Reverse(2), Delete(2),
        Load(0), Forward(0, 1), Save(1),
        Load(1), Reverse(1), Delete(1),
        Load(0), Reverse(0),
    ]  # fmt: skip


def test_whole_run_of_two_steps_is_this_plan():
    """Training is the forward part of the reverse plan, one step further, and ends at the seed."""
    plan = list(whole_run(2, lambda count, start: kary_schedule(count, 2, start=start)))

    assert plan == [
        Save(0), Load(0), Forward(0, 1), Save(1), Load(1),
        Forward(1, 2), Seed(2), Load(1), Reverse(1), Delete(1),
        Load(0), Reverse(0), Delete(0),
    ]  # fmt: skip


# paper.md 2.2: T, k, forward steps, peak live states (s_T and the first state among them)
TABLE = [
    (64, 2, 193, 8),
    (64, 4, 145, 11),
    (64, 8, 113, 16),
    (256, 2, 1025, 10),
    (256, 4, 769, 14),
    (256, 8, 641, 19),
    (1024, 2, 5121, 12),
    (1024, 4, 3841, 17),
    (1024, 32, 1985, 64),
    (4096, 2, 24577, 14),
    (4096, 4, 18433, 20),
    (4096, 32, 11009, 67),
    (64, 65, 64, 65),
    (1024, 1025, 1024, 1025),
]


@pytest.mark.parametrize(("num_steps", "arity", "forward_steps", "peak_states"), TABLE)
def test_whole_run_costs_what_the_table_says(num_steps, arity, forward_steps, peak_states):
    """The lazy k-ary tree is the published one only if it costs what the published one costs."""
    cost = run_cost(num_steps, arity)

    assert cost.forward_steps == forward_steps
    assert cost.peak_states == peak_states


@given(
    num_steps=st.integers(1, 400),
    arity=st.integers(2, 40),
    start=st.integers(0, 50),
    tier=st.sampled_from(Tier),
)
def test_kary_schedule_reverses_each_step_once_within_its_bounds(num_steps, arity, start, tier):
    """A plan visits T-1, ..., 0 with (k-1)d+1 saved states and Td forward steps at most."""
    depth = math.ceil(round(math.log(num_steps, arity), 9))
    plan = list(kary_schedule(num_steps, arity, start=start, tier=tier))

    cost = measure(plan, start=start, tier=tier)

    assert reversed_steps(plan) == list(range(start + num_steps - 1, start - 1, -1))
    assert cost.peak_saved[tier] <= (arity - 1) * depth + 1
    assert cost.forward_steps <= num_steps * depth


@given(num_steps=st.integers(2, 200), arity=st.integers(2, 20), data=st.data())
def test_whole_run_reverses_only_what_z_has_a_part_in(num_steps, arity, data):
    """Steps before the first one that reads z are trained once and never visited again."""
    first = data.draw(st.integers(0, num_steps - 1))

    cost = run_cost(num_steps, arity, first)

    assert cost.reverse_steps == num_steps - first
    assert cost.forward_steps == first + run_cost(num_steps - first, arity).forward_steps


@given(num_steps=st.integers(1, 300))
def test_store_all_runs_each_step_forward_once(num_steps):
    """The other end of the trade: no step is replayed, every state is kept."""
    plan = list(store_all_schedule(num_steps))

    cost = measure(plan, start=0)

    assert cost.forward_steps == num_steps - 1
    assert cost.peak_saved[Tier.MEMORY] == num_steps


@pytest.mark.parametrize("arity", [1, 0, -3])
def test_arity_below_two_is_refused_with_the_way_out(arity):
    """arity=1 would recurse forever, so it is refused, and the message names a value that works."""
    with pytest.raises(ScheduleError, match=rf"got {arity}.*arity=2"):
        kary_schedule(num_steps=8, arity=arity)


def test_empty_run_is_refused():
    """T = 0 has no last state to evaluate."""
    with pytest.raises(ScheduleError, match="got 0"):
        kary_schedule(num_steps=0, arity=2)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([Load(3)], "not saved"),
        ([Forward(1, 2)], "the state is s_0"),
        ([Forward(0, 2), Save(1)], "the state is s_2"),
        ([Forward(0, 1), Save(1)], "behind"),
        ([Forward(0, 2), Reverse(2), Load(0), Reverse(0)], "the adjoint is at 2"),
        ([Delete(0)], "belongs to the caller"),
        ([Forward(0, 0)], "empty"),
        ([Forward(0, 1), Seed(2)], "the state is s_1"),
        ([Trace(1, 2)], "the state is s_0"),
        ([Trace(0, 2), Load(0)], r"graphs of \[0, 1\]"),
        ([Trace(0, 2), Forward(2, 3)], r"graphs of \[0, 1\]"),
        ([Trace(0, 2), Reverse(0)], r"graphs are \[0, 1\]"),
        ([Trace(0, 2), Reverse(1), Reverse(1)], r"graphs are \[0\]"),
        ([Trace(0, 2), Reverse(1)], r"graphs of steps \[0\] behind"),
    ],
)
def test_simulator_refuses_an_impossible_action(broken, reason):
    """The simulator proves schedules only if it can fail."""
    with pytest.raises(ScheduleError, match=reason):
        measure(broken, start=0)


@settings(deadline=None, max_examples=60)
@given(
    num_steps=st.integers(1, 80),
    unroll=st.integers(1, 20),
    arity=st.integers(2, 6),
    start=st.integers(0, 9),
)
def test_unrolled_schedule_traces_each_step_once(num_steps, unroll, arity, start):
    """The replay of a step is its step with the graph; at most ``unroll`` graphs are alive."""

    def plan(count, first):
        return kary_schedule(count, arity, start=first)

    cost = measure(unrolled(num_steps, unroll, plan, start=start), start=start)

    blocks = measure(plan(-(-num_steps // unroll), 0), start=0)
    traced = num_steps if unroll > 1 else 0
    assert cost.reverse_steps == num_steps
    assert cost.traced_steps == traced
    assert cost.peak_graphs <= (unroll if unroll > 1 else 0)
    assert cost.peak_saved == blocks.peak_saved
    assert cost.forward_steps - traced <= unroll * blocks.forward_steps


def test_unrolled_whole_run_goes_from_the_last_graph_to_the_seed():
    """The last block is the end of training: its steps are run once in the whole run."""

    def plan(num_steps, start):
        return unrolled(num_steps, 2, lambda n, s: store_all_schedule(n, start=s), start=start)

    actions = list(whole_run(4, plan))

    assert actions == [
        Save(0), Load(0), Forward(0, 2), Save(2), Load(2),
        Trace(2, 4), Seed(4), Reverse(3), Reverse(2), Delete(2),
        Load(0), Trace(0, 2), Reverse(1), Reverse(0), Delete(0),
    ]  # fmt: skip


@given(side=st.integers(1, 18))
def test_sqrt_schedule_of_a_square_replays_two_levels(side):
    """m^2 steps: m blocks are marked, and each block is kept whole in its turn."""
    cost = measure(sqrt_schedule(side**2), start=0)

    assert cost.forward_steps == (2 * side * (side - 1) if side > 1 else 0)
    assert cost.peak_saved[Tier.MEMORY] <= max(2 * side - 1, 1)


def test_no_graph_at_all_is_asked_for_as_one():
    """unroll=0 would reverse no step."""
    with pytest.raises(ScheduleError, match="unroll must be at least 1, got 0"):
        list(unrolled(5, 0, store_all_schedule))
