"""A run as an object: what it has is what the run left, and no code of a store is run for it."""

import hashlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import engine
from engine.applications.descent.as_dataset import as_dataset
from engine.applications.descent.record import RunRecord
from engine.errors import CheckpointCorruptError, ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.runs import outer_steps
from engine.runs.run import begin_run
from engine.stages import claims
from engine.stages.claims import claim
from tests.helpers.data.own_problem import PROBLEM, write_problem
from tests.helpers.runs.finished import finish
from tests.helpers.runs.kinds import recipe_of

pytestmark = pytest.mark.slow

LOADED = 'import pathlib; pathlib.Path(__file__).with_name("loaded").touch()\n'


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A finished run of somebody's own problem, whose file leaves a mark where it is loaded."""
    folder = tmp_path_factory.mktemp("own")
    recipe = load_recipe(write_problem(folder, LOADED + PROBLEM), ["preflight=advise"])
    record = finish(recipe, str(folder / "store"))
    (folder / "loaded").unlink()
    return folder, record


@pytest.fixture
def run(own):
    folder, record = own
    return engine.open_run(folder / "store", record.run)


@pytest.fixture
def unfinished(own, tmp_path):
    """The same run as it was after two of three outer steps, before the second one was scored."""
    folder, record = own
    store = tmp_path / "store"
    shutil.copytree(folder / "store", store)
    gone = [record.iterates[2].value, record.iterates[2].final]
    for stage in (store / "stages").glob("*/*"):
        kind, key = stage.parts[-2:]
        if key not in {each.key for each in gone}:
            claim(str(store), record.run, kind, key, f"called {key[:4]}", cached=False)
    for file in (store / "runs" / record.run).glob("*.*"):
        if file.name != "recipe.json":
            file.unlink()
    return engine.open_run(store, record.run)


def test_tensors_are_those_that_the_run_reported(run, own):
    """The digest of the last z is in the record; the selection was written from z and gradient."""
    _, record = own
    bits = hashlib.sha256(run.z(2).numpy().tobytes()).hexdigest()

    assert bits == record.digest
    assert run.selection["count"].tolist() == run.z().tolist()
    assert run.selection["score"].tolist() == pytest.approx(run.metagradient(0).tolist())
    assert run.selection["name"][3] == "point 3"
    assert len(run.losses(1)) == record.recipe.training.num_steps


def test_the_model_has_the_test_loss_of_the_run(run, own):
    """Taken by a loop of plain torch over the test split."""
    _, record = own
    test = build_problem(record.recipe).data.splits["test"].batches(torch.device("cpu"))
    batch = test[torch.arange(len(test))]

    for step in (0, 2):
        model = run.model(step, trusted=True)
        with torch.no_grad():
            loss = float(cross_entropy(model(batch["x"]), batch["y"]))
        assert not model.training
        assert loss == pytest.approx(run.table["test_loss"][step], rel=1e-6)


def test_no_code_of_the_store_is_loaded_until_it_is_trusted(own, tmp_path):
    """Whoever can write to the store could have named it; all but the model is data."""
    folder, record = own
    for name in [name for name in sys.modules if "my_clouds" in name]:
        del sys.modules[name]
    (folder / "loaded").unlink(missing_ok=True)
    run = engine.open_run(folder / "store", record.run[:9])

    seen = [run.table, run.selection, run.z(), run.metagradient(), run.losses(), run.figures]
    seen += [run.report, run.settings, run.curves, run.quantities, run.dataset(), repr(run)]
    seen += [run._repr_html_(), run.arrays("state[1]")["params"][0, :3]]
    with pytest.raises(ConfigurationError, match=r"my_clouds.py:two_clouds.*trusted=True"):
        run.model()
    assert not (folder / "loaded").exists()
    assert all(each is not None for each in seen)


def test_the_figures_are_those_of_the_report(run):
    """With what they show, and where they stand."""
    page = Path(run.report).read_text()

    assert len(run.figures) >= 2
    for each in run.figures:
        assert each.image.startswith((b"\x89PNG", b"<svg"))
        assert each.alt in page
        assert each.section in page
        assert "<img" in each._repr_html_()
    assert run.read("selection.csv").startswith(b"id,count,score")
    with pytest.raises(ConfigurationError, match=r"no file 'run.json'.*selection.csv"):
        run.read("run.json")


def test_arrays_are_read_when_they_are_asked_for(run, own):
    """Lazily by zarr, verified by xarray row by row; neither can write to the store."""
    lazy, data = run.arrays("z[1]")["value"], run.dataset()

    assert torch.equal(torch.from_numpy(lazy[0]), run.z(1))
    with pytest.raises(ValueError, match="read-only"):
        lazy[0, 0] = 7
    assert data["z"][1].values.tolist() == run.z(1).tolist()
    assert data["z"][:, 4].values.tolist() == [float(run.z(step)[4]) for step in range(3)]
    assert data["metagradient"][0, 2:5].values.tolist() == run.metagradient(0)[2:5].tolist()
    assert data["metagradient"][2].isnull().all()
    assert float(data["loss"].sel(split="test", outer_step=1)) == run.table["test_loss"][1]


def test_dataset_has_a_score_that_only_some_splits_have(run):
    """What is not scored on a split is not a number there, and is not left out of the others."""
    iterates = [
        each.model_copy(update={"scores": {**each.scores, "test": {"loss": 1.0, "recall": 0.5}}})
        for each in run.iterates
    ]

    recall = as_dataset(run.store, iterates, run.name)["recall"]

    assert recall.sel(split="test").values.tolist() == [0.5] * len(iterates)
    assert recall.sel(split="objective").isnull().all()


def test_a_run_that_has_not_finished_opens_and_says_so(unfinished, run):
    """Its outer steps are found by what its stages were made from, not by what they are called."""
    assert (unfinished.finished, unfinished.record) == (False, None)
    assert "has not finished: 2 outer steps" in repr(unfinished)
    assert "mgd resume" in unfinished.standing
    assert unfinished.table.iloc[:, :-1].equals(run.table.iloc[:2, :-1])
    assert torch.equal(unfinished.z(1), run.z(1))
    assert torch.equal(unfinished.metagradient(0), run.metagradient(0))
    assert unfinished.quantities == {}
    assert unfinished.figures == []
    assert [each.name for each in unfinished.curves] == [each.name for each in run.curves]
    with pytest.raises(ConfigurationError, match=r"no report yet.*mgd resume"):
        _ = unfinished.report
    with pytest.raises(ConfigurationError, match="no outer step 2. It has 0 to 1"):
        unfinished.z(2)


def test_what_is_not_there_is_said_with_what_there_is(run, own, tmp_path):
    """One sentence and the remedy, as everywhere."""
    folder, record = own

    with pytest.raises(ConfigurationError, match=record.run):
        engine.open_run(folder / "store", "of-nobody")
    with pytest.raises(ConfigurationError, match=r"no metagradient.*up to 1"):
        run.metagradient(2)
    with pytest.raises(ConfigurationError, match=r"no stage 'x'.*state\[2\]"):
        run.arrays("x")
    other = recipe_of("attribution")
    begin_run(other, str(tmp_path / "store"))
    opened = engine.open_run(tmp_path / "store", "tiny-attribution")
    assert opened.rows == opened.curves == []
    assert "has not finished." in opened.standing
    with pytest.raises(ConfigurationError, match="of kind attribution, which selects no examples"):
        _ = opened.selection
    with pytest.raises(ConfigurationError, match="of kind attribution, which has no outer steps"):
        opened.z()
    with pytest.raises(ConfigurationError, match="of kind attribution, which has no outer steps"):
        _ = opened.iterates


def test_iterates_of_a_finished_run_are_those_of_its_record(own, tmp_path):
    """A clean leaves the record, and no stage that is not needed."""
    folder, record = own
    shutil.copytree(folder / "store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "stages" / "evaluate")

    opened = engine.open_run(tmp_path / "store", record.run)

    assert opened.iterates == record.iterates
    assert opened.chosen == record.chosen


def test_looking_again_reads_what_is_new(unfinished, own, monkeypatch):
    """A run of a thousand outer steps is looked at a thousand times."""
    folder, record = own
    assert len(unfinished.iterates) == 2
    assert unfinished.chosen == 1
    read, read_records = [], outer_steps.read_records
    for module in (outer_steps, claims):
        monkeypatch.setattr(
            module,
            "read_records",
            lambda urls, **more: read.extend(urls) or read_records(urls, **more),
        )

    same = unfinished.again()
    assert len(same.iterates) == 2
    assert not read
    for ref in (record.iterates[2].value, record.iterates[2].final):
        claim(unfinished.store, record.run, ref.stage, ref.key, "called", cached=False)
    for stage in (folder / "store" / "stages" / "evaluate").iterdir():
        claim(unfinished.store, record.run, "evaluate", stage.name, "called", cached=False)
    now = same.again()

    fresh = engine.open_run(unfinished.store, record.run)
    assert now.iterates == fresh.iterates
    assert len(now.iterates) == 3
    assert len(unfinished.iterates) == 2
    assert len([url for url in read if "/runs/" in url and "stages/" in url]) > 0


def test_a_store_that_leads_in_a_circle_ends(unfinished, own):
    """A forged record may say that a z was made from itself."""
    _, record = own
    stage = Path(unfinished.store, "stages", "update", record.iterates[1].value.key)
    text = (stage / "record.json").read_text()
    key = record.iterates[0].value.key
    (stage / "record.json").write_text(
        text.replace(key, record.iterates[1].value.key).replace('"initial"', '"update"')
    )

    assert len(engine.open_run(unfinished.store, record.run).iterates) == 1


def test_damage_is_told(run, own, tmp_path):
    """Tensors are verified when they are read."""
    folder, record = own
    shutil.copytree(folder / "store", tmp_path / "store")
    ref = record.iterates[1].value
    (chunk,) = (tmp_path / "store" / "stages" / ref.stage / ref.key).glob("attempts/*/value/c/0/0")
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])

    with pytest.raises(CheckpointCorruptError, match="value"):
        engine.open_run(tmp_path / "store", record.run).z(1)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"\xff\xfe,a\n1,2\n"])
def test_a_damaged_selection_is_told(content, run, own, tmp_path):
    """A store may hold anything under that name; what reads it may raise anything."""
    folder, record = own
    shutil.copytree(folder / "store", tmp_path / "store")
    where = tmp_path / "store" / "runs" / record.run
    (where / "selection.parquet").write_bytes(content)
    opened = engine.open_run(tmp_path / "store", record.run)

    with pytest.raises(
        CheckpointCorruptError, match=r"selection\.parquet is not what a run leaves"
    ):
        _ = opened.selection
    (where / "selection.parquet").unlink()
    assert list(opened.selection["count"]) == list(run.selection["count"])
    (where / "selection.csv").write_bytes(b"\xff\xfe,a\n1,2\n")
    with pytest.raises(CheckpointCorruptError, match=r"selection\.csv is not what a run leaves"):
        _ = opened.selection


def test_it_is_one_line_and_a_table(run, own):
    """Neither shows a tensor, and names from outside are no markup."""
    _, record = own

    assert repr(run).startswith(f"OpenRun({record.run}: ")
    assert repr(record).startswith(f"RunRecord({record.run}: ")
    assert all("\n" not in repr(each) and len(repr(each)) < 250 for each in (run, record))
    assert run._repr_html_().count("<tr>") >= 5
    forged = record.model_copy(update={"run": "<script>"})
    assert "<script>" not in RunRecord._repr_html_(forged)


def test_a_run_without_queries_says_where_its_scores_are(run):
    """A descent has one score for each example."""
    with pytest.raises(ConfigurationError, match=r"is of kind descent.*`selection`"):
        run.scores  # noqa: B018 (read to be refused)
