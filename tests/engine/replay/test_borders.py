"""Self-verifying replay: a replay that drifts is stopped where it first meets a saved state."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from engine.errors import ReplayMismatchError
from engine.numerics.determinism import deterministic
from engine.numerics.fingerprint import state_fingerprint
from engine.problems.segments import segments
from engine.recipes.replay import ReplaySettings, StepPath
from engine.replay.borders import Borders, differs, present, refuse_difference
from engine.replay.interpreter import Sweep, replay
from engine.schedules.by_name import schedule_maker
from engine.schedules.segments import Segment
from engine.schedules.trees import Tier, whole_run
from engine.stages import commits
from engine.stages import training as stages
from engine.stages.run import Run
from engine.storage.states import MemoryStates
from tests.helpers.runs.tiny_stages import kind, recipe, reverse_all, train_all
from tests.helpers.trainings import problems

PLANS = {
    "k-ary": {"schedule": "k-ary", "arity": 2},
    "sqrt": {"schedule": "sqrt"},
    "binomial": {"schedule": "binomial", "num_slots": 3},
    "two-level": {"schedule": "two-level", "num_slots": 2},
    "graphs of two steps": {"schedule": "k-ary", "arity": 2, "unroll": 2},
    "graphs, sqrt": {"schedule": "sqrt", "unroll": 3},
}


@dataclass
class Fault:
    """Something that begins when the forward sweep ends, so that the replay alone has it."""

    is_on: bool = False
    undo: list[Callable[[], None]] = field(default_factory=list)

    def __deepcopy__(self, memo):
        return self  # a routine copies its model, and the fault is one

    def output(self, module):
        """Phi, which is evaluated between the sweeps."""
        self.is_on = True
        return problems.output(module)


class Shuffled:
    """Examples in another order the second time."""

    def __init__(self, fault):
        self.fault, self.columns = fault, problems.examples()

    def __len__(self):
        return len(self.columns[1])

    def __getitem__(self, indices):
        chosen = (indices + self.fault.is_on) % len(self)
        return tuple(column[chosen] for column in self.columns)


class Faulty(nn.Module):
    """The model of the toy problems, with a fault in what it does to its inputs."""

    def __init__(self, fault, change):
        super().__init__()
        self.inside, self.fault, self.change = problems.model(), fault, change

    def forward(self, inputs):
        """Score inputs."""
        return self.inside(self.change(inputs) if self.fault.is_on else inputs)


def _draw(inputs):
    torch.rand(1)  # all that is drawn later, the units that drop out, is another number
    return inputs


def _shuffle(fault):
    return problems.routine(examples=Shuffled(fault))


def _dropout(fault):
    return problems.routine(model=Faulty(fault, _draw))


def _augmentation(fault):
    def augment(batch, drawn):
        noise = torch.randn(batch[0].shape, generator=drawn, dtype=torch.float64)
        if fault.is_on:
            noise = torch.randn(batch[0].shape, dtype=torch.float64)
        return batch[0] + 0.1 * noise, batch[1]

    return problems.routine(augment=augment)


def _dtype(fault):
    return problems.routine(model=Faulty(fault, lambda inputs: inputs.float().double()))


def _threads(fault):
    """Sums of 40,000 numbers have other bits on two threads."""
    many = torch.randn(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def change(threads):
        before = torch.get_num_threads()
        fault.undo.append(lambda: torch.set_num_threads(before))
        torch.set_num_threads(threads)

    def loss(module, batch):
        if fault.is_on and not fault.undo:
            change(2)
        first = next(module.parameters()).reshape(-1)[0]
        return problems.loss(module, batch) + (first * many).sum() ** 2 / 1e6

    return problems.routine(loss=loss)


class Flipping(MemoryStates):
    """Memory in which the lowest bit of one number flips while it is not looked at."""

    def load(self, step):
        """Return a state, or almost that state."""
        state = super().load(step)
        if step not in (4, 5):
            return state
        row = state["exp_avg"].clone()
        row.view(torch.int64)[7] ^= 1
        return {**state, "exp_avg": row}


FAULTS = {
    "shuffle": _shuffle,
    "dropout": _dropout,
    "augmentation": _augmentation,
    "dtype": _dtype,
    "threads": _threads,
}


def carry_out(routine, output, options, memory=MemoryStates):
    """Train and reverse without the checks of the first step."""
    plan, z = schedule_maker(ReplaySettings.model_validate(options)), routine.point()
    tiers = {Tier.MEMORY: memory(), Tier.HOST: MemoryStates()}
    actions = whole_run(routine.num_steps, plan, tier=plan.first_tier)
    with deterministic(1):
        sweep = Sweep(state=routine.initial_state(z), watches=[Borders(routine, z)])
        return replay(actions, routine, z, tiers, sweep, output=output)


MESSAGE = re.compile(
    r"Step (\d+), replayed, made another state (\d+) than the forward sweep: "
    r"\S+\[\d+(, \d+)*\] of \w+ was (\S+) \(0x[0-9a-f]{16}\) and is (\S+) \(0x[0-9a-f]{16}\) now\. "
    r"The likely cause|Hardware, libraries and threads are the same, so the likely cause"
)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", FAULTS)
def test_broken_determinism_is_stopped_at_the_first_border(name, plan):
    """Five of six ways to a replay that is not the run, under every schedule and with graphs."""
    fault = Fault()
    routine = FAULTS[name](fault)
    routine = replace(routine, path=StepPath.GRAPH)  # kept graphs have the bits of plain steps

    try:
        with pytest.raises(ReplayMismatchError) as caught:
            carry_out(routine, fault.output, PLANS[plan])
    finally:
        for undo in fault.undo:
            undo()

    found = MESSAGE.search(str(caught.value))
    assert found, str(caught.value)
    step = int(str(caught.value).split(",")[0].removeprefix("Step "))
    assert f"another state {step + 1} " in str(caught.value)


@pytest.mark.parametrize("plan", ["k-ary", "graphs of two steps"])
def test_a_flipped_bit_of_a_saved_state_is_found(plan):
    """The sixth way: memory that does not keep what it was given."""
    routine = replace(problems.routine(), path=StepPath.GRAPH)

    with pytest.raises(ReplayMismatchError, match=r"replayed, made another state [4-9] "):
        carry_out(routine, problems.output, PLANS[plan], memory=Flipping)


@pytest.mark.parametrize("plan", PLANS)
def test_an_honest_replay_is_not_stopped(plan):
    """With dropout, and several states kept."""
    routine = replace(problems.routine(), path=StepPath.GRAPH)

    sweep = carry_out(routine, problems.output, PLANS[plan])

    assert sweep.metagradient["weights"].any()


def test_threads_are_named_as_the_cause():
    """The user reads what changed, and not only that something did."""
    fault = Fault()
    routine = _threads(fault)

    try:
        with pytest.raises(ReplayMismatchError, match=r"threads was 1 and is 2"):
            carry_out(routine, fault.output, PLANS["k-ary"])
    finally:
        for undo in fault.undo:
            undo()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device": "NVIDIA H100"}, "another kind of hardware: device was NVIDIA H100"),
        ({"processor": "Other 9000"}, "another kind of hardware: processor was Other 9000"),
        ({"threads": 64}, "another number of threads"),
        ({"torch": "1.0"}, "a changed library: torch was 1.0"),
        ({}, "randomness that nobody seeds"),
    ],
)
def test_the_cause_is_what_changed_since_the_state_was_made(change, words):
    """A store that was written on another kind of machine is recognized."""
    routine = problems.routine()
    state = routine.initial_state()
    moved = {**state, "params": state["params"] + 1}
    made_in = {**present(routine), **change}

    with deterministic(torch.get_num_threads()), pytest.raises(ReplayMismatchError) as caught:
        refuse_difference(routine, 3, state, moved, made_in)

    assert words in str(caught.value)
    assert "Step 2, replayed, made another state 3" in str(caught.value)
    assert "0.weight[0, 0] of params" in str(caught.value)


def test_fingerprints_tell_one_flipped_bit():
    """Only they leave a GPU, so they decide whether two states are compared at all."""
    state = problems.routine().initial_state()
    marks = state_fingerprint(state)
    row = state["exp_avg"].clone()
    row.view(torch.int64)[3] ^= 1

    assert not differs(state, marks)
    assert differs({**state, "exp_avg": row}, marks)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose segments are trained, in two versions: as it is, and with its last step moved."""
    store = str(tmp_path_factory.mktemp("store"))
    tiny = recipe(*kind("weights"))
    value = stages.initial_value(Run(tiny, store))
    return tiny, store, value, train_all(tiny, store, value)


def _other_end(trained, **machine):
    """Commit the end of the last segment as a machine would have that computes otherwise."""
    tiny, store, value, borders = trained
    part = segments(tiny)[-1]
    moved = {**commits.read_rows(store, borders[-1])}
    moved["exp_avg"] = moved["exp_avg"].clone()
    moved["exp_avg"].view(torch.int32)[11] ^= 1
    inputs = {"segment": part, "value": value, "start": borders[-2], "by": str(machine)}
    with pytest.MonkeyPatch.context() as patch:
        if machine:
            real = commits.machine
            patch.setattr(commits, "machine", lambda: {**real(), **machine})
        end = commits.run_stage(
            stages.train_segment.declared, Run(tiny, store), inputs, lambda: (moved, {})
        )
    return part, end


@pytest.mark.parametrize("ahead", [False, True], ids=["replayed here", "replayed ahead"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"schedule": "store-all"}, {"schedule": "binomial", "num_slots": 2}],
    ids=["k-ary", "store-all", "binomial"],
)
def test_a_segment_that_meets_another_end_is_stopped(trained, changes, ahead):
    """The end was made by another stage, perhaps elsewhere; nothing is pulled back from there."""
    tiny, store, value, borders = trained
    tiny = recipe(*kind("weights"), *(("replay", name, value) for name, value in changes.items()))
    part, end = _other_end(trained)
    adjoint = stages.seed(Run(tiny, store), value, end)
    rows = stages.replay_segment(Run(tiny, store), part, value, borders[-2]) if ahead else None

    with pytest.raises(ReplayMismatchError) as caught:
        stages.reverse_segment(
            Run(tiny, store), part, value, borders[-2], end, adjoint, trajectory=rows
        )

    assert "Step 11, replayed, made another state 12" in str(caught.value)
    assert "of exp_avg" in str(caught.value)
    assert "randomness that nobody seeds" in str(caught.value)


def test_a_store_from_another_kind_of_machine_is_recognized(trained):
    """The record of a stage says where it was made, and the message says what differs."""
    tiny, store, value, borders = trained
    part, end = _other_end(trained, processor="Another Processor 9000")
    adjoint = stages.seed(Run(tiny, store), value, end)

    with pytest.raises(ReplayMismatchError, match="processor was Another Processor 9000"):
        stages.reverse_segment(Run(tiny, store), part, value, borders[-2], end, adjoint)


def test_a_trajectory_that_is_not_the_run_is_stopped(trained):
    """States that another worker replayed are used only if they lead where the run went."""
    tiny, store, value, borders = trained
    part = segments(tiny)[-1]
    adjoint = stages.seed(Run(tiny, store), value, borders[-1])
    own = stages.replay_segment(Run(tiny, store), part, value, borders[-2])
    rows = [commits.read_rows(store, borders[-2])] * (part.stop - part.start)
    inputs = {"segment": part, "value": value, "start": borders[-2], "by": "a broken worker"}
    wrong = commits.run_stage(
        stages.replay_segment.declared,
        Run(tiny, store),
        inputs,
        lambda: (iter(rows), {}),
        num_rows=len(rows),
    )

    with pytest.raises(ReplayMismatchError, match="Step 11, replayed"):
        stages.reverse_segment(
            Run(tiny, store), part, value, borders[-2], borders[-1], adjoint, trajectory=wrong
        )
    assert stages.reverse_segment(
        Run(tiny, store), part, value, borders[-2], borders[-1], adjoint, trajectory=own
    )


def test_borders_inside_a_segment_are_compared_too(trained, monkeypatch):
    """A segment of twelve steps is replayed in parts, which have to meet each other."""
    _, store, value, _ = trained
    long = recipe(*kind("weights"), ("replay", "steps_per_segment", 12), ("replay", "arity", 2))
    borders = train_all(long, store, value)
    kept = []
    monkeypatch.setattr(
        "engine.replay.borders.refuse_difference", lambda *given: kept.append(given[1])
    )

    reverse_all(long, store, value, borders)

    assert segments(long) == [Segment(start=0, stop=12)]
    assert {3, 6, 9} & set(kept)


def test_stages_say_nothing_where_all_agrees(trained, caplog):
    """A warning at every run would be read by nobody."""
    tiny, store, value, borders = trained

    with caplog.at_level(logging.WARNING):
        reverse_all(tiny, store, value, borders)

    assert not caplog.records
