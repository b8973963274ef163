"""The interpreter: states are made again bit by bit, and trouble is named by its step."""

import math
import weakref

import pytest
import torch
from torch import nn

from engine.errors import NonFiniteError, ReplayMismatchError, ScheduleError
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.replay.interpreter import Sweep, check_losses, replay, reverse_step
from engine.replay.seeding import seed_adjoint
from engine.schedules.by_name import schedule_maker
from engine.schedules.trees import (
    Delete,
    Forward,
    Load,
    Reverse,
    Save,
    Seed,
    Tier,
    Trace,
    whole_run,
)
from engine.step.step import plain_step, traced_step
from engine.storage.states import MemoryStates, RowStore
from tests.helpers.trainings import problems

T = problems.NUM_STEPS


def carry_out(actions, routine, tiers=None, sweep=None, output=problems.output):
    """Carry out a schedule from s_0, with states in memory."""
    return replay(
        actions,
        routine,
        routine.point(),
        tiers or {Tier.MEMORY: MemoryStates()},
        sweep or Sweep(state=routine.initial_state()),
        output=output,
    )


def all_states(routine):
    """s_0, ..., s_T by plain steps, without the interpreter."""
    states = [routine.initial_state()]
    for step in range(T):
        states.append(plain_step(routine, states[-1], routine.point(), step)[0])
    return states


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("start", [0, 1, 4, 8])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_replayed_states_have_the_bits_of_the_first_pass(optimizer, start):
    """From any saved state on, with moments and dropout; else the adjoint is that of no run."""
    routine = problems.routine(optimizer, "all")
    states = MemoryStates()
    borders = [each for t in range(T) for each in (Save(t), Forward(t, t + 1))]
    first = carry_out([*borders, Save(T)], routine, {Tier.MEMORY: states})

    again = carry_out([Load(start), Forward(start, T)], routine, {Tier.MEMORY: states}, Sweep())

    assert same_bits(again.state, first.state)
    assert same_bits(again.state, states.load(T))
    assert all(torch.equal(again.losses[t], first.losses[t]) for t in range(start, T))


def test_replay_from_a_store_has_the_bits_of_memory(tmp_path):
    """A run that was killed goes on from a file, and must end where it would have ended."""
    routine = problems.routine("adamw", "all")
    layout = {name: (len(row), row.dtype) for name, row in routine.initial_state().items()}
    store = RowStore.create(str(tmp_path / "states"), layout, T + 1, attributes={})
    carry_out([Forward(0, 4), Save(4, Tier.STORE)], routine, {Tier.STORE: store})

    found = carry_out(
        [Load(4, Tier.STORE), Forward(4, T), Delete(4, Tier.STORE)],
        routine,
        {Tier.STORE: store},
        Sweep(),
    )

    assert same_bits(found.state, all_states(routine)[T])
    assert store.steps() == []


@pytest.mark.parametrize(
    ("kind", "first"), [("weights", 0), ("counts", problems.INJECTION_STEP), ("all", 0)]
)
def test_adjoint_norms_are_those_of_the_steps_they_name(kind, first):
    """The norm of lambda_t by t shows where a run explodes; an off-by-one misleads."""
    routine = problems.routine("adamw", kind)
    plan = schedule_maker(ReplaySettings(arity=3))

    sweep = carry_out(whole_run(T, plan, first_step=first), routine)

    # Nothing reads the adjoint at the first step, unless z shapes the start.
    last = 0 if routine.shapes_start else first + 1
    assert sorted(sweep.adjoint_norms) == list(range(last, T))
    assert (sweep.adjoint != {}) is routine.shapes_start


@pytest.mark.parametrize("start", [1, 5, 8])
def test_adjoint_is_the_derivative_of_the_output_with_respect_to_the_state(start):
    """lambda_t = d phi / d s_t, by autograd through all steps from t on; 1e-12 is rounding."""
    routine = problems.routine("adamw", "weights")
    state = {name: row.requires_grad_() for name, row in all_states(routine)[start].items()}
    last = state
    for step in range(start, T):
        last = traced_step(routine, last, routine.point(), step)
    value = routine.call(problems.output, last["params"], training=False)
    expected = torch.stack([g.norm() for g in torch.autograd.grad(value, list(state.values()))])

    sweep = carry_out(
        whole_run(T, schedule_maker(ReplaySettings(schedule=ScheduleName.STORE_ALL))), routine
    )

    assert float(sweep.adjoint_norms[start]) == pytest.approx(float(expected.norm()), rel=1e-12)


def test_reversal_in_two_parts_is_the_reversal_in_one():
    """A segment hands on its adjoint and the metagradient so far, and nothing else."""
    routine = problems.routine("adamw", "all")
    plan = schedule_maker(ReplaySettings(arity=2))
    whole = carry_out(whole_run(T, plan), routine)
    borders, states = all_states(routine), MemoryStates()
    states.save(0, borders[0])
    states.save(5, borders[5])
    output, adjoint = seed_adjoint(routine, borders[T], problems.output)

    late = carry_out(plan(4, 5), routine, {Tier.MEMORY: states}, Sweep(adjoint=adjoint))
    early = carry_out(
        plan(5, 0),
        routine,
        {Tier.MEMORY: states},
        Sweep(adjoint=late.adjoint, metagradient=late.metagradient),
    )

    assert same_bits(early.metagradient, whole.metagradient)
    assert torch.equal(output, whole.output)


def test_seed_is_the_gradient_of_the_output_and_zero_for_the_moments():
    """The output reads the parameters only; the moments get their adjoint from the last update."""
    routine = problems.routine("adamw")
    net = problems.model().eval()
    value = problems.output(net)
    gradients = torch.autograd.grad(value, list(net.parameters()))
    expected = torch.cat([gradient.flatten() for gradient in gradients])

    output, adjoint = seed_adjoint(routine, routine.initial_state(), problems.output)

    assert torch.equal(output, value.detach())
    assert torch.equal(adjoint["params"], expected)
    assert not adjoint["exp_avg"].any()
    assert not adjoint["exp_avg_sq"].any()


def test_final_state_is_kept_while_the_working_state_goes_back():
    """The trained model is a result of the same call, not of one more training."""
    routine = problems.routine("adamw", "weights")

    sweep = carry_out(whole_run(T, schedule_maker(ReplaySettings(arity=2))), routine)

    assert same_bits(sweep.final, all_states(routine)[T])


def test_loss_that_becomes_nan_names_its_step_in_a_later_segment():
    """The step is counted from the start of the run, not of the segment that found it."""
    rates = [0.05] * 5 + [1e200] + [0.05] * 3
    routine = problems.routine("sgd", learning_rate=rates)

    with pytest.raises(NonFiniteError, match=r"in step 6\..*lower learning_rate"):
        carry_out([Forward(0, 3), Forward(3, 9)], routine)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_first_bad_loss_is_the_one_that_is_named(value):
    """Later ones are its consequences."""
    losses = {2: torch.tensor(1.0), 3: torch.tensor(value), 4: torch.tensor(math.nan)}

    with pytest.raises(NonFiniteError, match=f"became {value} in step 3"):
        check_losses(losses, 2, 5)


def test_output_that_is_infinite_is_refused():
    """An adjoint made of it would be NaN at every step, with no step to blame."""
    routine = problems.routine()

    with pytest.raises(NonFiniteError, match=r"output of the model is -?inf"):
        seed_adjoint(
            routine, routine.initial_state(), lambda model: (0 * model[0].weight).sum().log()
        )


def test_metagradient_that_is_not_finite_is_named():
    """Shares of the first step come last, and no adjoint after them would show it."""
    routine = problems.routine("sgd", "weights")
    sweep = Sweep(metagradient={"weights": torch.tensor([1.0, math.nan, math.inf])})

    with pytest.raises(NonFiniteError, match="'weights' holds 2 values.*how it enters"):
        carry_out([], routine, sweep=sweep)


def test_reverse_without_an_adjoint_is_refused():
    """A forgotten seed would give a metagradient of zeros."""
    with pytest.raises(ScheduleError, match="no adjoint to pull back through step 0"):
        carry_out([Save(0), Load(0), Reverse(0)], problems.routine())


def test_reverse_before_the_first_step_that_reads_z_is_refused():
    """There is no adjoint left, and no share to be had: the schedule goes too far back."""
    routine = problems.routine("sgd", "counts")
    states = all_states(routine)
    sweep = Sweep(state=states[problems.INJECTION_STEP])
    _, sweep.adjoint = seed_adjoint(routine, states[problems.INJECTION_STEP + 1], problems.output)
    reverse_step(routine, routine.point(), problems.INJECTION_STEP, sweep)

    with pytest.raises(ScheduleError, match="through step 3"):
        carry_out([Reverse(3)], routine, sweep=sweep)


def test_seed_without_an_output_is_refused():
    """The schedule and the call must agree on what is differentiated."""
    with pytest.raises(ScheduleError, match="no output was given"):
        carry_out([Seed(0)], problems.routine(), output=None)


@pytest.mark.parametrize("action", [Load(0), Forward(3, 4), Trace(3, 4), Reverse(1)], ids=str)
def test_graph_that_is_kept_is_used_before_the_state_changes(action):
    """A graph leads back to the state that it was made at; with another one it would be wrong."""
    routine = problems.routine("adamw", "weights")
    states, sweep = MemoryStates(), Sweep(state=routine.initial_state())
    states.save(0, sweep.state)
    _, sweep.adjoint = seed_adjoint(routine, all_states(routine)[3], problems.output)

    with pytest.raises(ScheduleError, match=r"(?s)graphs.*\[0, 1, 2\].*first"):
        carry_out([Trace(0, 3), action], routine, {Tier.MEMORY: states}, sweep)


def test_traced_states_have_the_bits_of_plain_steps():
    """The state after a traced step is the run's own, or later products belong to no run."""
    routine = problems.routine("adamw", "all")
    states = all_states(routine)

    sweep = carry_out([Trace(0, 4)], routine)

    assert same_bits(sweep.state, states[4])
    assert all(same_bits(sweep.before(step), states[step]) for step in range(4))


def test_traced_step_that_leaves_the_trajectory_is_refused_where_it_does():
    """Step 0 may agree and a later one not; every sweep compares the first step that it traces."""
    net = nn.Sequential(
        nn.Linear(4, 8), nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    routine = problems.routine("adamw", "weights", model=net.double())

    with pytest.raises(ReplayMismatchError, match=r'Step 2 makes other bits.*path="graph"'):
        carry_out([Forward(0, 2), Trace(2, 4)], routine)


def test_graph_is_freed_when_its_step_is_reversed():
    """Memory of a block of steps goes down as it is reversed, or unroll would mean all of T."""
    routine = problems.routine("adamw", "weights")
    sweep = carry_out([Trace(0, T), Seed(T)], routine)
    graphs = [weakref.ref(sweep.graphs[step]) for step in range(T)]

    carry_out([Reverse(T - 1), Reverse(T - 2)], routine, sweep=sweep)

    assert [ref() is None for ref in graphs] == [False] * (T - 2) + [True] * 2
