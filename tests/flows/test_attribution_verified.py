"""The certificate of an attribution: an honest run passes, and what was changed does not."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.applications.verifying import verify_run
from engine.errors import ConfigurationError
from engine.preflight.verdict import Verdict
from engine.recipes.files import validate_recipe
from engine.runs.certificates import read_certificate
from engine.runs.endings import intact, sealed
from engine.storage.records import read_record, write_record
from flows.attribution import attribution
from flows.cli.app import app
from flows.registry import FLOWS
from tests.helpers.runs.forgery import forge, moved
from tests.helpers.runs.kinds import recipe_of
from tests.helpers.runs.tiny_attribution import tiny_attribution

TINY = tiny_attribution(
    60,
    20,
    replay={"steps_per_segment": 4},
    attribution={"num_queries": 3, "drops": [], "trial_subsets": 0, "baselines": []},
)
NAMES = ["train-segment", "scores-file", "central-difference"]
MOVED = "metagradient_weights"

pytestmark = pytest.mark.slow

cli = CliRunner()


def made(store, **groups):
    """Run a changed one."""
    content = TINY | {name: TINY[name] | group for name, group in groups.items()}
    return attribution(validate_recipe(content, "test"), str(store))


@pytest.fixture(scope="module")
def finished(prefect_server, tmp_path_factory):
    """One attribution in float64, and where it is."""
    store = tmp_path_factory.mktemp("attribution")
    return str(store), made(store)


@pytest.fixture
def own(finished, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(finished[0], tmp_path / "own")
    return str(tmp_path / "own"), finished[1]


def accept(store, record, **changed):
    """Let the record of the run name what was forged."""
    found = record.found.model_copy(update=changed)
    where = record.url(store, "run.json")
    content = intact(read_record(where)) or {}
    write_record(where, sealed({**content, "found": found.model_dump(mode="json")}))


def verdicts(certificate):
    return {each.name: each.verdict for each in certificate.checks}


def one_query(number, change):
    """Return a change of the metagradient of one query."""

    def changed(rows):
        row = rows[MOVED].clone().reshape(3, -1)
        row[number] = change(row[number])
        return {**rows, MOVED: row.reshape(-1)}

    return changed


def test_an_honest_run_passes_and_says_so(own):
    """In the report, in mgd show, and in a file beside the result; every query can be drawn."""
    store, record = own
    page = Path(record.url(store, "report.html"))
    assert "Not verified yet" in page.read_text()
    assert "Not verified yet" in cli.invoke(app, ["show", "tiny", "--store", store]).stdout

    drawn = {}
    for seed in range(6):
        certificate = verify_run(store, "tiny", seed)
        assert certificate.verdict is Verdict.PASS, certificate
        assert [each.name for each in certificate.checks] == NAMES
        difference = certificate.checks[-1]
        assert difference.value < difference.limit < 1e-2
        assert f"of the loss of query {certificate.query}," in difference.cause
        drawn[certificate.query] = certificate.segment.start

    assert drawn.keys() == {0, 1, 2}
    assert read_certificate(store, record.run) == certificate
    said = f"of the training were made again, and the metagradient of query {certificate.query} "
    assert said in page.read_text()
    shown = cli.invoke(app, ["show", "tiny", "--store", store]).stdout
    assert said in " ".join(shown.split())


def test_a_changed_query_is_refused_where_it_is_drawn(own):
    """Two trainings know nothing of the sweep; of the other queries they say nothing."""
    store, record = own
    change = one_query(1, lambda row: 1.2 * row)
    recipe = record.recipe.descent
    accept(store, record, gradient=forge(store, record.found.gradient, change, recipe))

    found = {each.query: each for each in (verify_run(store, "tiny", seed) for seed in range(6))}

    assert {query: each.verdict for query, each in found.items()} == {
        # The file has what was there before, which everybody notices.
        0: Verdict.REFUSE, 1: Verdict.REFUSE, 2: Verdict.REFUSE
    }  # fmt: skip
    assert {query: verdicts(each)["central-difference"] for query, each in found.items()} == {
        0: Verdict.PASS, 1: Verdict.REFUSE, 2: Verdict.PASS
    }  # fmt: skip
    assert all(verdicts(each)["scores-file"] is Verdict.REFUSE for each in found.values())


def test_a_changed_state_is_refused(own):
    """Only a training that is made again tells: everything about the state agrees."""
    store, record = own
    final = forge(store, record.found.final, moved("params", 1e-12), record.recipe.descent)
    accept(store, record, final=final)

    refused = [verify_run(store, "tiny", seed) for seed in range(6)]

    wrong = [each for each in refused if each.segment.stop == 6]
    assert {verdicts(each)["train-segment"] for each in wrong} == {Verdict.REFUSE}
    assert "element 3 of params" in wrong[0].checks[0].cause
    assert {verdicts(each)["train-segment"] for each in refused if each not in wrong} == {
        Verdict.PASS
    }


def test_a_changed_file_of_scores_is_refused(own):
    """It is what people read, and no stage."""
    store, record = own
    file = Path(record.url(store, "scores.csv"))
    file.write_text(file.read_text().replace("0.", "1.", 1))

    certificate = verify_run(store, "tiny", 0)

    assert verdicts(certificate)["scores-file"] is Verdict.REFUSE
    assert verdicts(certificate)["central-difference"] is Verdict.PASS
    file.unlink()
    assert "scores.csv is gone" in verify_run(store, "tiny", 0).checks[1].cause


@pytest.mark.slow
def test_a_run_in_float32_is_compared_in_float64_where_that_says_more(prefect_server, tmp_path):
    """A tenth is lost in the roundings of a query with a small loss, and is seen in float64."""
    # Trained until some of the losses are small.
    longer = {"dtype": "float32", "num_steps": 200, "learning_rate": 0.05}
    record = made(tmp_path, training=longer, arguments={"model": {"width": 32, "depth": 1}})

    honest = [verify_run(str(tmp_path), "tiny", seed) for seed in range(6)]
    recipe, old = record.recipe.descent, record.found.gradient
    gradient = forge(
        str(tmp_path), old, lambda rows: {**rows, MOVED: 1.1 * rows[MOVED]}, recipe
    )  # fmt: skip
    accept(str(tmp_path), record, gradient=gradient)
    changed = [verify_run(str(tmp_path), "tiny", seed) for seed in range(6)]

    assert {each.verdict for each in honest} == {Verdict.PASS}
    exact = [each.checks[-1] for each in honest]
    assert {each.name for each in exact} == {"central-difference-float64"}
    assert all(each.cause.startswith("In float64: two trainings") for each in exact)
    assert all(each.value < 1e-3 < each.limit < 0.05 for each in exact)
    # In its own format alone one could not be decided, and the others less surely.
    assert {len(each.checks) for each in honest} == {3, 4}
    assert {verdicts(each)["central-difference-float64"] for each in changed} == {Verdict.REFUSE}


@pytest.mark.slow
def test_a_basis_is_verified_by_what_was_swept(prefect_server, tmp_path):
    """Directions and queries by themselves; the scores of all are put together again."""
    own = {"num_queries": 9, "basis": 4}
    record = made(tmp_path, attribution=own)
    store = str(tmp_path)

    honest = [verify_run(store, "tiny", seed) for seed in range(8)]
    spanned = forge(store, record.found.spanned, moved(MOVED, 1e-9), record.recipe.descent)
    accept(store, record, spanned=spanned)

    assert {each.verdict for each in honest} == {Verdict.PASS}, honest
    assert any(each.query is not None for each in honest)
    assert any(each.basis_direction is not None for each in honest)
    assert all((each.query is None) != (each.basis_direction is None) for each in honest)
    assert [each.name for each in honest[0].checks][1] == "basis-scores"
    assert verdicts(verify_run(store, "tiny", 0))["basis-scores"] is Verdict.REFUSE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["canaries", "metasmoothness", "smooth-search"])
def test_what_other_kinds_say_is_true(kind, prefect_server, tmp_path):
    """Nothing of them is verified by itself; a second run in another store has the same bits."""
    store, other = str(tmp_path / "one"), str(tmp_path / "other")
    found, again = (FLOWS[kind](recipe_of(kind), place) for place in (store, other))

    with pytest.raises(ConfigurationError, match="Made again in an empty store"):
        verify_run(store, found.run)

    def contents(place, record):
        return {
            (ref["stage"], ref["content"])
            for ref in _refs(read_record(record.url(place, "run.json")))
        }

    shown = cli.invoke(app, ["show", found.run, "--store", store]).stdout
    assert "No part of it is verified by itself" in " ".join(shown.split())
    assert (
        "No part of it is verified by itself" in Path(found.url(store, "report.html")).read_text()
    )
    if kind != "smooth-search":  # whose parts are runs with records of their own
        assert contents(store, found) == contents(other, again) != set()


def _refs(content):
    """Yield what looks like a reference to a stage, wherever it is."""
    if isinstance(content, dict):
        if content.keys() == {"stage", "key", "content"}:
            yield content
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from _refs(each)
