"""The reverse sweep with workers ahead of it: the same bits, within what the store may hold."""

import pytest
import torch

from engine.errors import UntrustworthyError, WitnessError
from engine.preflight.verdict import CheckReport
from engine.problems.segments import segments
from engine.recipes.execution import WorkersSettings
from engine.recipes.names import run_name
from engine.replay.refusals import later_steps
from engine.runs.run import Stages
from engine.stages import commits
from engine.stages import training as stages
from engine.stages.run import Run
from engine.storage.location import list_folders
from flows.descent import descent
from tasks.running.progress import Progress
from tests.helpers.runs.tiny_recipe import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

# Six segments, of which the last four are reversed.
FINE = ["outer.num_steps=1", "replay.steps_per_segment=2", "metaparameters.injection_step=4"]
LOOKAHEAD = 2


@pytest.fixture(scope="module")
def alone(tmp_path_factory, prefect_server):
    """The sweep without a trajectory."""
    store = str(tmp_path_factory.mktemp("alone"))
    return store, descent(small(*FINE), store)


def trajectories(store):
    return list_folders(f"{store}/stages/replay")


@pytest.fixture(scope="module")
def ahead(tmp_path_factory, prefect_server):
    """The same run looking ahead: its record, and how many trajectories each stage's end found."""
    store, alive, done = str(tmp_path_factory.mktemp("ahead")), [], Progress.ends

    def look(self, name, kind, ref, **more):
        alive.append(len(trajectories(store)))
        done(self, name, kind, ref, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "ends", look)
        record = descent(small(*FINE, f"workers.lookahead={LOOKAHEAD}"), store)
    return store, record, alive


def test_lookahead_changes_neither_a_key_nor_a_bit(ahead, alone):
    """Whether states were replayed ahead is cost: keys and contents of all references agree."""
    _, record, _ = ahead
    _, expected = alone

    assert record.iterates == expected.iterates
    assert record.digest == expected.digest
    assert record.run == expected.run
    assert record.stages == expected.stages


def test_no_more_trajectories_are_alive_than_allowed(ahead):
    """A whole run of states would fill the store; the bound is what makes looking ahead safe."""
    store, _, alive = ahead

    assert max(alive) == LOOKAHEAD
    assert trajectories(store) == []


def test_nothing_is_replayed_for_segments_that_are_reversed(alone, monkeypatch):
    """A resumed run must not make trajectories that nobody will read."""
    store, expected = alone
    made = []
    replay = stages.replay_segment.compute
    monkeypatch.setattr(
        stages.replay_segment, "compute", lambda *a, **k: made.append(a) or replay(*a, **k)
    )

    again = descent(small(*FINE, f"workers.lookahead={LOOKAHEAD}"), store)

    assert made == []
    assert again.stages.cached == again.stages.total == expected.stages.total


def test_resumed_sweep_drops_a_trajectory_that_was_used(alone):
    """A run killed between a commit and the deletion leaves one behind."""
    store, expected = alone
    recipe = small(*FINE, f"workers.lookahead={LOOKAHEAD}")
    part = segments(recipe)[-2]
    before = commits.lineage(store, expected.iterates[0].final, "start")[2]
    stages.replay_segment(Run(recipe, store), part, expected.iterates[0].value, before)
    assert len(trajectories(store)) == 1

    descent(recipe, store)

    assert trajectories(store) == []


def test_workers_are_no_part_of_a_runs_name():
    """A run goes on with other workers, on another cluster, as the same run."""
    workers = WorkersSettings(runner="dask", address="tcp://10.0.0.1:8786", gpus_per_stage=1)
    recipe = small()

    assert run_name(recipe) == run_name(recipe.model_copy(update={"workers": workers}))


def test_stages_without_a_trajectory_are_counted_alike(alone):
    """Replaying ahead is a part of reversing, so the counts do not depend on it."""
    _, record = alone

    assert record.stages == Stages(total=2 + 2 * (6 + 1) + 4 + 2, cached=0, retried=0)


def test_metagradient_is_there(alone):
    """All comparisons above would hold of nothing."""
    store, record = alone

    rows = commits.read_rows(store, record.iterates[0].gradient)

    assert torch.count_nonzero(rows["metagradient_counts"]) > 0


def test_what_later_steps_showed_stops_the_run(tmp_path, monkeypatch):
    """The stage that found it is kept, and a run that takes it as advice goes on from there."""

    def wrong(routine, here):
        raise WitnessError(f"Off in step {here.step}.")

    monkeypatch.setattr(later_steps, "compare_loss", wrong)
    monkeypatch.setattr(stages.preflight, "compute", lambda run: ({}, SOUND))
    with pytest.raises(UntrustworthyError, match="Off in step"):
        descent(small(*FINE, "preflight=enforce"), str(tmp_path))

    monkeypatch.undo()
    with pytest.raises(UntrustworthyError, match="Off in step"):
        descent(small(*FINE, "preflight=enforce"), str(tmp_path))
    assert len(descent(small(*FINE, "preflight=advise"), str(tmp_path)).iterates) == 2


SOUND = CheckReport.of([]).model_dump(mode="json")
