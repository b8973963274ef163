"""What attacks and accidents did no harm by, held still: a store in parts, URLs that make URLs.

Others of the kind are where their subject is: reports in ``tests/engine/reports``, codecs in
``tests/engine/storage/test_hostile_rows.py``, links in ``tests/engine/storage/test_objects.py``,
names in ``tests/engine/storage/test_safe_names.py``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.errors import EngineError
from engine.problems.table.problem import read_table
from engine.recipes.files import load_recipe
from flows.cli import app as cli
from tests.bench import bench_show
from tests.faults.small_store import RECIPE
from tests.finished import finish

RUN = "bench-0badcafe"

PAYLOAD = "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}"
CODE = {
    "a template": {"templates": {"u": PAYLOAD}, "refs": {"x": ["{{u}}", 0, 4]}},
    "a reference": {"refs": {"x": PAYLOAD}},
    "a generator": {
        "refs": {},
        "gen": [
            {
                "key": PAYLOAD,
                "url": PAYLOAD,
                "offset": PAYLOAD,
                "length": "4",
                "dimensions": {"i": {"stop": 2}},
            }
        ],
    },
    "a template with arguments": {
        "templates": {"u": "{{c}}" + PAYLOAD},
        "refs": {"x": ["{{u(c='a')}}", 0, 4]},
    },
}


@pytest.mark.parametrize("content", CODE.values(), ids=CODE)
def test_file_of_references_runs_no_template(content, tmp_path):
    """A filesystem made of JSON, whose older versions rendered whatever stood in it."""
    pytest.importorskip("jinja2")
    canary = tmp_path / "canary"
    said = json.dumps({"version": 1, **content}).replace("CANARY", str(canary))
    (tmp_path / "refs.json").write_text(said)

    with pytest.raises(EngineError, match="cannot be"):
        read_table(f"reference://x::file://{tmp_path}/refs.json", "training")

    assert not canary.exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and its store."""
    store = tmp_path_factory.mktemp("finished") / "store"
    return store, finish(load_recipe("digits-selection", RECIPE), str(store))


PARTS = {
    "stages": "stages",
    "trainings": "stages/train",
    "the start": "stages/initial",
    "sweeps": "stages/reverse",
    "the recipe": "runs/*/recipe.json",
    "the record": "runs/*/run.json",
    "leases": "stages/*/*/leases",
    "records of stages": "stages/*/*/record.json",
    "attempts": "stages/*/*/attempts",
    "marks of rows": "stages/*/*/attempts/*/committed",
    "chunks": "stages/*/*/attempts/*/*/c",
    "descriptions": "stages/*/*/attempts/*/zarr.json",
    "the mark": "store.json",
    "all runs": "runs",
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_store_that_lost_a_part_gives_the_same_bits_again(part, finished, tmp_path):
    """Whatever is gone is made again, and nothing else counts."""
    intact, record = finished
    store = shutil.copytree(intact, tmp_path / "store")
    lost = list(store.glob(part))
    for path in lost:
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    again = finish(load_recipe("digits-selection", RECIPE), str(store))

    assert lost
    assert again.digest == record.digest
    assert [each.scores for each in again.iterates] == [each.scores for each in record.iterates]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["show", RUN],
        ["compare", RUN, "bench-1badcafe", "--json"],
        ["resume", RUN],
        ["verify", RUN],
        ["export", RUN, "{tmp}/model.pt"],
        ["send", RUN, "--to", "tensorboard:{tmp}/events"],
    ],
    ids=lambda words: words[0],
)
def test_recipe_of_a_newer_version_is_told_in_one_message(words, tmp_path, monkeypatch):
    """It has a setting that this version does not know."""
    monkeypatch.setattr("flows.cli.running.prepare_process", lambda debug: None)
    store = tmp_path / "store"
    for name in (RUN, "bench-1badcafe"):
        bench_show.add_run(store, name, 2, is_finished=False)
        content = {"name": "bench", "kind": "descent", "training": {"of_2031": 1}}
        (store / "runs" / name / "recipe.json").write_text(json.dumps(content))
    given = [word.replace("{tmp}", str(tmp_path)) for word in words]

    done = CliRunner().invoke(cli.app, [*given, "--store", str(store)])

    if words[0] == "show":
        assert done.exit_code == 0, done.output
        return
    assert done.exit_code == 2, done.output
    assert "of_2031: unknown setting" in done.output


SURROUNDINGS = {
    "no locale": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "20 columns": {"COLUMNS": "20"},
    "no columns": {"COLUMNS": "0", "LINES": "0"},
    "no terminal": {"TERM": ""},
    "a time zone that is none": {"TZ": "Nowhere/Nothing"},
    "no home": {"HOME": "/nonexistent"},
    "nothing": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_run_is_shown_whatever_is_around_the_command(changes, tmp_path):
    """Jobs of a cluster have neither a locale nor a terminal nor a home."""
    store = tmp_path / "a b%20[c]*ü"
    bench_show.add_run(store, RUN, 2, is_finished=True)
    record = json.loads((store / "runs" / RUN / "run.json").read_text())
    record["ending"]["summary"] = ["é 漢字 ≥ −1"]
    (store / "runs" / RUN / "run.json").write_text(json.dumps(record))
    kept = {"PATH", "PYTHONPATH"} if changes == {} else set(os.environ)
    environment = {name: value for name, value in os.environ.items() if name in kept} | changes

    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.app", "show", RUN, "--store", str(store)],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )

    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
