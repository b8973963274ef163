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
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.errors import EngineError
from engine.problems.tables.files import read_table
from engine.recipes.files import load_recipe
from flows.cli import app as cli
from tests.bench import bench_show
from tests.faults import chain, disk_full
from tests.faults.small_store import RECIPE
from tests.helpers.runs.finished import finish

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


@pytest.mark.slow
def test_run_is_shown_to_a_closed_terminal(tmp_path):
    """A supervisor may start a command without any of the three streams."""
    store = tmp_path / "store"
    bench_show.add_run(store, RUN, 2, is_finished=True)
    words = f"-m flows.cli.app show {RUN} --store {store}"

    for closed in ("<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"exec {sys.executable} {words} {closed}"],
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
        )
        assert b"Traceback" not in done.stderr + done.stdout, closed


PLACES = {
    "spaces": "a store of mine",
    "ideographs": "漢字",
    "a per cent sign": "50%20%",
    "a hash": "#1",
    "a new line": "one\ntwo",
    "patterns": "[a]*?{b}",
    "a quotation mark": 'it\'s "mine"',
    "a path of 3,000 characters": "/".join(["x" * 200] * 15),
    "a leading hyphen": "-rf",
}


@pytest.mark.parametrize("name", PLACES.values(), ids=PLACES)
def test_store_may_lie_anywhere(name, tmp_path):
    """Names of folders are data: no command takes one for a pattern, a URL or markup."""
    store = tmp_path / name
    bench_show.add_run(store, RUN, 2, is_finished=True)
    store = store.rename(tmp_path / name)
    link = tmp_path / "link"
    link.symlink_to(store)
    runner = CliRunner()

    for place in (store, link):
        listed = runner.invoke(cli.app, ["show", "--store", str(place)])
        shown = runner.invoke(cli.app, ["show", RUN, "--store", str(place)])
        looked = runner.invoke(cli.app, ["clean", "--keep", "0", "--store", str(place)])
        assert [each.exit_code for each in (listed, shown, looked)] == [0, 0, 0], looked.output
        assert "2 of 2 stages" in shown.output.replace("\n", " ")
        assert RUN in looked.output


@pytest.fixture
def small_disks(tmp_path):
    """Skips where none can be mounted."""
    if reason := disk_full.why_not(tmp_path):
        pytest.skip(reason)


@pytest.mark.slow
def test_disk_without_room_for_a_name_stops_a_run_that_then_goes_on(small_disks, tmp_path):
    """Inodes run out before bytes where files are small, as those of a store are."""
    refs = chain.run(tmp_path / "undisturbed")
    store = tmp_path / "store"
    with disk_full.disk(store, 65536):
        disk_full.mount(store, 65536, "remount", "nr_inodes=90")
        with pytest.raises(EngineError, match="(?i)space|full|inode"):
            chain.run(store)
        before = chain.committed(store)
        disk_full.mount(store, 65536, "remount", "nr_inodes=100000")
        with chain.counted() as computed:
            again = chain.run(store)

    assert again == refs
    assert before
    assert not set(computed) & set(before)


@pytest.mark.slow
def test_store_that_turns_read_only_in_mid_run_goes_on_when_it_is_not(
    small_disks, tmp_path, monkeypatch
):
    """Disks with errors, and exports of servers that are worked on, do so."""
    refs = chain.run(tmp_path / "undisturbed")
    store, done = tmp_path / "store", []

    def until_the_fifth(stage, *arguments):
        if len(done) == 4:
            disk_full.mount(store, 65536, "remount", "ro")
        done.append(stage)
        return stage(*arguments)

    with disk_full.disk(store, 65536):
        with pytest.raises(EngineError, match="(?i)read-only|cannot be written"):
            chain.run(store, until_the_fifth)
        disk_full.mount(store, 65536, "remount", "rw")
        before = chain.committed(store)
        with chain.counted() as computed:
            again = chain.run(store)

    assert again == refs
    assert len(before) == 4
    assert not set(computed) & set(before)


@pytest.mark.slow
def test_temporary_folder_that_is_full_is_one_message(small_disks, finished, tmp_path):
    """Large ones are mounted elsewhere, and small ones fill up with what others left."""
    store, record = finished
    full = tmp_path / "full"
    with disk_full.disk(full, 16):
        with suppress(OSError), (full / "rest").open("wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)
        assert shutil.disk_usage(full).free == 0
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli.app", "verify", record.run, "--store", str(store)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ
            | {"TMPDIR": str(full), "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        )

    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done.stderr


BITS = """
import sys, torch, engine
from torch.nn.functional import cross_entropy
torch.manual_seed(0)
torch.set_num_threads(1)
x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
layers = torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3)
net = torch.nn.Sequential(*layers)
loss = lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none")
run = engine.Routine(
    net, loss, (x, y), engine.adamw(), learning_rate=0.01, num_steps=6, batch_size=10,
    metaparameters={"weights": engine.ExampleWeights(torch.ones(40))},
)
found = engine.metagradient(run, lambda model: loss(model, (x, y)).mean())
from engine.numerics.fingerprint import fingerprint
print(fingerprint(found["weights"]), found.output)
"""
ENVIRONMENTS = {
    "a fixed hash": {"PYTHONHASHSEED": "1"},
    "another hash": {"PYTHONHASHSEED": "77"},
    "no locale": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "another time zone": {"TZ": "Asia/Kathmandu"},
    "without assertions": {"PYTHONOPTIMIZE": "2"},
    "warnings are errors": {"PYTHONWARNINGS": "error::UserWarning:engine"},
    "development mode": {"PYTHONDEVMODE": "1"},
    "more threads asked for": {"OMP_NUM_THREADS": "3"},
    "other memory": {"MALLOC_PERTURB_": "165", "MALLOC_ARENA_MAX": "1"},
    "no home": {"HOME": "/nonexistent"},
}


@pytest.mark.slow
def test_metagradient_has_the_same_bits_whatever_is_around_the_process(tmp_path):
    """Two machines of a pool differ in all of this, and share a store."""
    root = str(Path(cli.__file__).parents[2])
    found = {}
    for name, changes in ({"nothing": {}} | ENVIRONMENTS).items():
        done = subprocess.run(
            [sys.executable, "-c", BITS],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | changes | {"PYTHONPATH": root},
        )
        assert done.returncode == 0, (name, done.stderr)
        found[name] = done.stdout

    assert len(set(found.values())) == 1, found
