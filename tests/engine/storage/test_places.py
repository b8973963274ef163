"""One module knows where things lie in a store; the layout that it describes is the one it has."""

import ast
import re
from pathlib import Path

import pytest

import engine
from engine.stages import keys
from engine.storage import places
from engine.storage.names import is_run_file, own_stage

ROOT = Path(engine.__file__).parents[1]
OWN = Path(places.__file__)
FILES = {
    *(places.MARK, places.RECORD, places.RECIPE, places.PLAN, places.BUDGET, places.RUN),
    places.CERTIFICATE,
}
FOLDERS = {
    *(places.STAGES, places.RUNS, places.RESULTS, places.LEASES, places.ATTEMPTS),
    *(places.STARTS, places.AT_WORK),
}
JOINING = {"join", "run_file", "file"}
SOURCES = [
    path
    for package in ("engine", "tasks", "flows")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path not in (OWN, Path(keys.__file__))  # which names folders of the engine
]


def literals(path):
    """Return what a module writes of a store's names: files anywhere, folders where it joins."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    prose = {node.value for node in nodes if isinstance(node, ast.Expr)}
    joined = [each for node in nodes if is_join(node) for each in node.args]
    for node in nodes:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in prose:
            continue
        first, slash, _ = node.value.partition("/")
        is_file = bool(FILES.intersection(node.value.split("/")))
        is_folder = first in FOLDERS and (slash or any(node is each for each in joined))
        if is_file or is_folder:
            yield node.value


def is_join(node):
    """Say whether an expression joins parts of a URL."""
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "id", getattr(node.func, "attr", "")) in JOINING


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_writes_names_of_a_store(path):
    """A name that is written twice is renamed once."""
    assert list(literals(path)) == []


def test_a_name_that_is_written_is_seen(tmp_path):
    """The test above would hold of a search that finds nothing."""
    written = tmp_path / "written.py"
    written.write_text(
        '"""Layout: run.json."""\n'
        'join(store, "runs", run, "run.json")\nrun_file(store, run, "at-work")\n'
        'f"stages/{path}"\nsay("runs", "stages of a run")\n'
    )

    assert sorted(literals(written)) == ["at-work", "run.json", "runs", "stages/"]


def test_the_described_layout_is_the_one_of_the_functions():
    """People find a file by it, and the engine by the functions."""
    stage, run = places.stage_folder("s", "train", "k"), places.run_folder("s", "name-0123abcd")
    described = re.findall(r"^ +(?:<store>/)?(\S+)  ", OWN.read_text().split('"""')[1], re.M)
    kept = {each.replace("<stage>/<key>", "train/k").rstrip("/") for each in described}

    assert stage == "s/stages/train/k"
    assert run == "s/runs/name-0123abcd"
    assert places.stage_record_url("s", "train", "k") == f"{stage}/{places.RECORD}"
    assert kept >= {places.MARK, "stages/train/k/record.json", places.LEASES, places.ATTEMPTS}
    assert kept >= {places.PLAN, places.BUDGET, places.RUN, places.CERTIFICATE}
    assert kept >= {places.CLAIMS, places.STARTS, places.AT_WORK}


def test_what_is_written_is_known_to_be_the_engines():
    """What has a place in a store and no name of ours would be taken for somebody else's."""
    key = "0" * 32

    assert own_stage(f"train/{key}/{places.RECORD}") == ("train", key)
    assert own_stage(f"train/{key}/{places.LEASES}/00000001.json") == ("train", key)
    assert own_stage(f"train/{key}/{places.ATTEMPTS}/00000001-0badcafe/zarr.json")
    assert all(map(is_run_file, [places.RECIPE, places.PLAN, places.BUDGET, places.RUN]))
    assert is_run_file(f"{places.STARTS}/{'a' * 32}.json")
    assert is_run_file(f"{places.AT_WORK}/{'a' * 32}.json")
