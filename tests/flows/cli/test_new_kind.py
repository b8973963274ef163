"""A kind of run that is declared in a test: listed, shown and cleaned without another edit."""

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from engine.recipes.descent import DescentRecipe
from engine.reports.sections import Drawing, Figure, Section
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.runs.starts import begin_start
from engine.runs.store_mark import mark_store
from engine.stages.claims import claim
from engine.stages.references import Ref
from engine.storage.location import join
from engine.storage.places import stage_record_url
from engine.storage.records import write_record
from flows.cli.app import app
from tests.helpers.runs.tiny_stores import key, named
from tests.helpers.runs.toy_kind import Record

RUN = named("toy")
cli = CliRunner()


def stage(store, kind, word):
    """A stage that is there, and that the run uses."""
    claim(store, RUN, kind, key(word), word, cached=False)
    ref = {"stage": kind, "key": key(word), "content": "c" * 16}
    made = {"started": datetime.now(UTC).isoformat(), "seconds": 1.0, "bytes": 1, "run": RUN}
    write_record(
        stage_record_url(store, kind, key(word)), {"ref": ref, "inputs": {}, "attempt": "1", **made}
    )
    return Ref(**ref)


@pytest.fixture
def store(tmp_path):
    """A store with one finished run of the kind."""
    place = str(tmp_path / "store")
    mark_store(place)
    now = datetime.now(UTC)
    begin_start(place, RUN, now)
    write_record(join(place, "runs", RUN, "recipe.json"), {"name": "toy", "kind": "toy"})
    stage(place, "initial", "z0")
    stage(place, "train", "spare")
    kept = stage(place, "train", "best")
    record = Record(
        run=RUN, started=now.isoformat(), seconds=1.0, recipe=DescentRecipe(name="toy"), kept=[kept]
    )
    shown = Section(
        "A figure",
        figures=[Figure(Drawing("<svg/>", "<svg/>"), "Nine times six, drawn as a square")],
    )
    finish(place, record, lambda record: Report("Six by nine", [shown]))
    return place


def test_it_is_listed_and_shown(store):
    """With the sentences and the table that its record has."""
    listed = json.loads(cli.invoke(app, ["show", "--store", store, "--json"]).stdout)
    shown = cli.invoke(app, ["show", RUN, "--store", store], env={"COLUMNS": "200"})
    told = json.loads(cli.invoke(app, ["show", RUN, "--store", store, "--json"]).stdout)

    assert [(each["run"], each["standing"]) for each in listed] == [(RUN, "finished")]
    assert shown.exit_code == 0
    assert "The answer is 42." in shown.stdout
    assert "six by nine" in shown.stdout
    assert told["answer"] == 42


def test_it_is_cleaned_to_what_it_keeps(store, tmp_path):
    """Bulky stages go but for those that the record names; small ones stay."""
    asked = ["clean", "--store", store, "--intermediate", "--grace", "0s", "--yes", "--json"]

    told = json.loads(cli.invoke(app, asked).stdout)

    assert [each["name"] for each in told["freed"]] == [f"train/{key('spare')}"]
    left = {path.parent.name for path in (tmp_path / "store").glob("stages/*/*/record.json")}
    assert left == {key("z0"), key("best")}
    assert (tmp_path / "store" / "runs" / RUN / "report.html").exists()


def test_it_is_not_offered_for_verification(store):
    """Its kind brings nothing that makes parts of it again, and what verifies it is said."""
    shown = cli.invoke(app, ["show", RUN, "--store", store]).stdout

    assert "mgd verify" not in shown
    assert "Made again in an empty store" in " ".join(shown.split())
