"""A start of a finished run that would compute nothing, found without a flow."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.applications.descent import repeated as module
from engine.applications.descent.repeated import repeated
from engine.runs.run import Stages
from engine.stages import keys
from engine.stages.claims import claim
from tests.helpers.runs.finished import finish
from tests.helpers.runs.tiny_recipe import small


@pytest.fixture(scope="module")
def recipe():
    return small("outer.num_steps=1", "training.threads=1")


@pytest.fixture(scope="module")
def ended(tmp_path_factory, recipe):
    """A store with a run that has ended, and the claims that a flow would have written."""
    store = tmp_path_factory.mktemp("ended")
    record = finish(recipe, str(store))
    found = sorted(store.glob("stages/*/*/record.json"))
    tokens = [
        claim(str(store), record.run, *place.parts[-3:-1], "a stage", cached=True).token
        for place in found
    ]
    ending = record.ending.model_copy(update={"claims": tokens})
    stages = Stages(total=len(found), cached=0)
    counted = record.model_copy(update={"ending": ending, "stages": stages})
    (store / "runs" / record.run / "run.json").write_text(counted.model_dump_json())
    return store


@pytest.fixture
def store(ended, tmp_path):
    return Path(shutil.copytree(ended, tmp_path / "store"))


def test_finished_run_is_told_again_with_every_stage_cached(store, recipe):
    """Nothing is computed, so no server is started and no flow is run."""
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}

    record = repeated(recipe, str(store))

    assert record is not None
    assert record.nothing_computed
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_stages_are_declared_where_nothing_else_was_loaded():
    """A command that asks has loaded no flow, which would have declared them."""
    code = (
        "from engine.applications.descent import repeated\n"
        "from engine.stages.stage import STAGES\n"
        "print(*sorted(STAGES))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    used = "preflight initial train seed reverse update evaluate baseline retrain schedules optuna"
    assert set(used.split()) <= set(done.stdout.split())


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(store):
    """Damage one bit of a state."""
    place = next(store.glob("stages/train/*/attempts/*/params/c/0/*"))
    content = bytearray(place.read_bytes())
    content[10] ^= 1
    place.write_bytes(content)


DAMAGE = {
    "a bit of a state": flip,
    "a stage": lambda store: shutil.rmtree(next(store.glob("stages/evaluate/*"))),
    "the report": lambda store: next(store.glob("runs/*/report.html")).unlink(),
    "another claim": lambda store: claim(
        str(store), next(store.glob("runs/*")).name, "train", "0" * 32, "train", cached=False
    ),
    "another recipe on record": lambda store: changed(
        next(store.glob("runs/*/run.json")), lambda c: c["recipe"].update(problem="other.py:f")
    ),
    "a record of another run": lambda store: changed(
        next(store.glob("runs/*/run.json")), lambda c: c.update(run="other-12345678")
    ),
    "an end by a clock that was ahead": lambda store: changed(
        next(store.glob("runs/*/run.json")),
        lambda c: c["ending"].update(ended=(datetime.now(UTC) + timedelta(days=900)).isoformat()),
    ),
    "no record": lambda store: next(store.glob("runs/*/run.json")).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_whatever_is_not_there_is_left_to_the_flow(store, recipe, damage):
    """Only a run that is whole would compute nothing."""
    damage(store)

    assert repeated(recipe, str(store)) is None


def test_another_engine_makes_other_stages(store, recipe, monkeypatch):
    """The key of every stage is made again from the code that is there today."""
    monkeypatch.setattr(keys, "engine_version", lambda *_: "another")

    assert repeated(recipe, str(store)) is None


def test_a_program_that_has_changed_may_draw_another_report(store, recipe, monkeypatch):
    """No key counts the code that draws, so its age has to."""
    later = datetime.now(UTC) + timedelta(days=1)
    monkeypatch.setattr(module, "_newest_code", lambda _: later)

    assert repeated(recipe, str(store)) is None


@pytest.mark.parametrize("name", ["flow.py", "templates/page.html", "templates/page.css"])
def test_a_file_that_was_put_there_since_is_left_to_the_flow(store, recipe, tmp_path, name):
    """A flow may ask for more stages; a package from a cache keeps the times of its content."""
    place = tmp_path / "flows" / name
    place.parent.mkdir(parents=True)
    place.touch()
    os.utime(place, (0, 0))

    assert repeated(recipe, str(store), [tmp_path / "flows"]) is None
