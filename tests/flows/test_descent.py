"""The outer loop through the real Prefect engine, on one temporary server."""

import math
import shutil

import pytest
import torch
from prefect.client.orchestration import get_client

from engine import metagradient
from engine.applications.descent.record import read_run
from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.stages import commits
from engine.storage.location import join, list_folders
from flows.descent import descent
from tests.helpers.runs.tiny_recipe import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server):
    """One finished run, for tests that only look at it or run it again."""
    store = str(tmp_path_factory.mktemp("store"))
    return small(), store, descent(small(), store)


@pytest.mark.slow
def test_descent_takes_the_engines_metagradient_in_every_outer_step(finished):
    """Segments, stages and the store must not change a bit of what the engine computes."""
    recipe, store, record = finished
    problem = build_problem(recipe)

    found = [
        commits.read_rows(store, iterate.gradient)["metagradient_counts"]
        for iterate in record.iterates
        if iterate.gradient
    ]

    values = [commits.read_rows(store, iterate.value)["value"] for iterate in record.iterates]
    expected = [
        metagradient(problem.routine.at(value), problem.output)["counts"] for value in values[:-1]
    ]
    assert len(found) == 2
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_record_says_what_each_iterate_scored_and_which_was_chosen(finished):
    """People and scripts read the record: every iterate, on splits the objective never saw."""
    _, store, record = finished

    losses = [iterate.scores["validation"]["loss"] for iterate in record.iterates]

    assert len(record.iterates) == 3
    assert len(record.objective) == 2
    assert record.chosen == losses.index(min(losses))
    assert all(math.isfinite(loss) for loss in losses)
    assert read_run(store, record.run) == record


def test_run_leaves_its_report_beside_the_checkpoints(finished):
    """A run is read later and elsewhere: everything about it is in its store."""
    _, store, record = finished

    page = (join(store, "runs", record.run, "report.html"),)

    with open(page[0]) as file:
        assert record.digest in file.read()


@pytest.mark.slow
def test_second_run_uses_every_stage_again(finished):
    """The same settings are the same run: nothing that is finished is done twice."""
    recipe, store, record = finished

    again = descent(recipe, store)

    assert again.stages.cached == again.stages.total == record.stages.total
    assert again.digest == record.digest


@pytest.mark.slow
def test_longer_run_goes_on_from_a_shorter_one(finished):
    """More outer steps are a natural wish after a look at the report: only those are new."""
    _, store, record = finished

    longer = descent(small("outer.num_steps=3"), store)

    assert longer.stages.cached == record.stages.total
    assert longer.iterates[:2] == record.iterates[:2]


@pytest.mark.slow
def test_damaged_checkpoint_is_made_again_and_nothing_else(finished, tmp_path):
    """A cached record whose rows are gone must not be believed: zarr reads missing as fill."""
    _, original, record = finished
    store = shutil.copytree(original, tmp_path / "own")
    ref = record.iterates[1].final
    (chunk,) = (store / "stages" / ref.stage / ref.key).glob("attempts/*/params/c/0/0")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)

    again = descent(small(), str(store))

    assert again.digest == record.digest
    assert again.stages.total - again.stages.cached == 1


@pytest.mark.slow
def test_task_runs_have_names_that_say_what_they_did(finished):
    """The UI lists task runs by name: the outer step and the steps of the segment are in it."""
    recipe, store, _ = finished
    descent(recipe, store)

    with get_client(sync_client=True) as client:
        names = {run.name for run in client.read_task_runs()}

    assert {
        "train[0] 0-5",
        "train[0] 5-10",
        "train[1] 10-12",
        "seed[1]",
        "reverse[0] 10-12",
    } <= names


def test_impossible_store_is_refused_before_training(tmp_path):
    """From the UI there is no command line to refuse it: the flow's first task does."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")

    with pytest.raises(ConfigurationError, match="store"):
        descent(small(), str(blocked / "store"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weights", "learning-rate"])
def test_other_metaparameters_descend_with_a_torch_optimizer(kind, tmp_path):
    """Adam's moments travel from one outer step to the next through the store."""
    recipe = small(
        f"metaparameters.name={kind}",
        "training.rate_schedule=flat",
        "outer.update=Adam",
        "outer.step_size=0.05",
    )

    record = descent(recipe, str(tmp_path))

    rows = commits.read_rows(str(tmp_path), record.iterates[2].value)
    assert float(rows["outer_step"]) == 2.0
    assert rows["outer_exp_avg"].abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["file", "s3"])
def test_store_may_be_any_url(protocol, request, tmp_path):
    """Another machine reuses stages by the URL alone."""
    root = request.getfixturevalue("bucket") if protocol == "s3" else f"file://{tmp_path}"
    recipe = small("outer.num_steps=1", "replay.steps_per_segment=12")
    store = join(root, "flow")

    first = descent(recipe, store)
    again = descent(recipe, store)

    assert again.stages.cached == again.stages.total == first.stages.total
    assert again.digest == first.digest
    assert list_folders(store) == ["runs", "stages"]
