"""A run that goes on with other data than it began with: told before anything is computed."""

import logging

import pytest
import torch

import engine
from engine.errors import ConfigurationError
from engine.problems.built import _build
from engine.recipes.files import validate_recipe
from engine.runs.run import begin_run
from engine.stages import same_data
from engine.stages.run import Run
from engine.stages.same_data import note_data, note_finished
from engine.stages.training import initial_value, prepare
from engine.storage.places import DATA
from engine.storage.records import read_record, write_bytes, write_record
from tests.helpers.data.own_problem import PROBLEM, own, replaced


@pytest.fixture(autouse=True)
def another_process():
    """Nothing is remembered of the run, as in the process that goes on with one."""
    yield from forgotten()


def forgotten():
    _build.cache_clear()
    same_data._TOLD.clear()
    yield
    _build.cache_clear()


def rows(number, moved=0.0):
    return "x,y,kind\n" + "".join(
        f"{n % 7 + moved * (n == 3)},{n * 3 % 11},{'ab'[n % 2]}\n" for n in range(number)
    )


def table(folder):
    return validate_recipe(
        {
            "name": "rows",
            "problem": "table",
            "arguments": {"url": str(folder / "rows.csv"), "label": "kind"},
            "training": {"num_steps": 4, "batch_size": 4, "threads": 1},
        },
        "a test",
    )


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        (rows(40, moved=0.5), "as many as then, with another content"),
        (rows(50), r"train had 24 and has 30"),
    ],
    ids=["one number", "more rows"],
)
def test_unfinished_run_is_refused_on_edited_data(edited, words, tmp_path):
    """Everything would be made again under the name of a run that began with other rows."""
    pytest.importorskip("pyarrow", reason="tables need the package pyarrow")
    (tmp_path / "rows.csv").write_text(rows(40))
    recipe, store = table(tmp_path), str(tmp_path / "store")
    begin_run(recipe, store)
    next(forgotten())
    initial_value(Run(recipe, store))  # with the same data it goes on

    (tmp_path / "rows.csv").write_text(edited)
    next(forgotten())

    with pytest.raises(ConfigurationError, match=f"not those with which run rows-.*{words}"):
        prepare(Run(recipe, store))
    with pytest.raises(ConfigurationError, match="Put them back, on the workers too"):
        initial_value(Run(recipe, store))  # as a worker with another file, or a retried flow

    (tmp_path / "rows.csv").write_text(rows(40))
    next(forgotten())
    prepare(Run(recipe, store))


def test_file_that_an_own_problem_reads_counts(tmp_path):
    """No digest of source sees it, and the recipe is the same."""
    (tmp_path / "scale.txt").write_text("1.0")
    path = tmp_path / "scale.txt"
    problem = replaced(
        "    hx, hy =", f"    x = x * float(open({str(path)!r}).read())\n    hx, hy ="
    )
    recipe, store = own(tmp_path, problem), str(tmp_path / "store")
    begin_run(recipe, store)
    path.write_text("1.5")
    next(forgotten())

    with pytest.raises(ConfigurationError, match="other examples .as many as then"):
        prepare(Run(recipe, store))


def test_weights_that_a_model_starts_from_count(tmp_path):
    """A pretrained model is data too, and may be replaced between two starts."""
    weights = tmp_path / "weights.pt"
    torch.save(torch.zeros(2), weights)
    problem = replaced(
        "    return engine.Problem(",
        f"    net[2].bias.data = torch.load({str(weights)!r})\n    return engine.Problem(",
    )
    recipe, store = own(tmp_path, problem), str(tmp_path / "store")
    begin_run(recipe, store)
    torch.save(torch.ones(2), weights)
    next(forgotten())

    with pytest.raises(ConfigurationError, match="other initial parameters of the model. Put"):
        prepare(Run(recipe, store))


def test_finished_run_starts_anew_and_that_is_told(tmp_path, caplog):
    """A table that grows every night has one run each night, under one name."""
    recipe, store = own(tmp_path, PROBLEM), str(tmp_path / "store")
    run = Run(recipe, store)
    begin_run(recipe, store)
    note_finished(store, run.name)
    url = run.file(DATA)
    other = read_record(url)
    other["digests"]["examples"] = "0" * 32
    same_data.write_record(url, other)
    next(forgotten())

    with caplog.at_level(logging.WARNING):
        prepare(Run(recipe, store))
    begin_run(recipe, store)

    assert "has finished on other data: examples" in caplog.text
    assert read_record(url)["digests"] != other["digests"]
    assert not read_record(url)["finished"]


def test_note_that_cannot_be_understood_stops_nobody(tmp_path):
    """It is of no key: whoever damages it can hide a change and no more."""
    recipe, store = own(tmp_path, PROBLEM), str(tmp_path / "store")
    begin_run(recipe, store)
    write_bytes(Run(recipe, store).file(DATA), b"[]")
    next(forgotten())

    prepare(Run(recipe, store))


@pytest.mark.parametrize(("version", "agrees"), [("0.1", True), (torch.__version__, False)])
def test_other_start_of_another_torch_is_no_other_data(version, agrees, tmp_path):
    """Versions of torch may draw other initial parameters; examples are what they are."""
    recipe, store = own(tmp_path), str(tmp_path / "store")
    begin_run(recipe, store)
    url = Run(recipe, store).file(DATA)
    note = read_record(url)
    others = {what: "0" * 32 for what in note["digests"] if what != "examples"}
    assert others
    write_record(url, {**note, "torch": version, "digests": {**note["digests"], **others}})
    next(forgotten())

    if agrees:
        prepare(Run(recipe, store))
    else:
        with pytest.raises(ConfigurationError, match=r"not those with which run"):
            prepare(Run(recipe, store))


def test_another_start_in_a_process_reads_its_data_anew(tmp_path):
    """What was built is kept for the stages of one start; the next one has the files of now."""
    (tmp_path / "rows.csv").write_text(rows(40))
    recipe, store = table(tmp_path), str(tmp_path / "store")
    begin_run(recipe, store)
    before = Run(recipe, store).problem.data.fingerprint
    note_finished(store, Run(recipe, store).name)

    (tmp_path / "rows.csv").write_text(rows(40, moved=0.5))
    begin_run(recipe, store)

    assert Run(recipe, store).problem.data.fingerprint != before


def test_worker_that_stays_has_the_data_of_the_start_that_it_works_for(tmp_path):
    """Another process has begun the run anew, and notes what it began with."""
    (tmp_path / "rows.csv").write_text(rows(40))
    recipe, store = table(tmp_path), str(tmp_path / "store")
    begin_run(recipe, store)
    before = Run(recipe, store).problem.data.fingerprint

    (tmp_path / "rows.csv").write_text(rows(40, moved=0.5))
    there = _build.__wrapped__(recipe.model_dump_json())
    note_data(store, Run(recipe, store).name, there)

    assert there.data.fingerprint != before
    assert Run(recipe, store).problem.data.fingerprint == there.data.fingerprint


@pytest.mark.slow
def test_notebook_descends_on_the_rows_of_now(tmp_path):
    """A table is edited, and the cell is run again."""
    (tmp_path / "rows.csv").write_text(rows(40))
    recipe = table(tmp_path)
    before = engine.descend(recipe, outer={"num_steps": 1}).routine

    (tmp_path / "rows.csv").write_text(rows(40, moved=0.5))
    after = engine.descend(recipe, outer={"num_steps": 1}).routine

    assert not torch.equal(before.examples[0], after.examples[0])
