"""The table "How to add" of ``engine/README.md``, each row carried out in a copy of the engine.

An addition writes two places and nothing else; then a recipe names it, and its metagradient is
compared with what the same thing is called elsewhere, so that a name that leads to something else
is seen.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from tests.engine.additions import ADDITIONS, BEFORE, COMMON

ENGINE = Path(engine.__file__).parent
ROOT = ENGINE.parent
README = (ENGINE / "README.md").read_text()


def rows():
    """Return what the table says: what is added, to the two places."""
    table = README.split("## How to add", 1)[1].split("\n## ", 1)[0]
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and "`" in cells[1]:
            place = r"`((?:engine|flows)/[\w/<>.]+)`"
            found[cells[0]] = [re.findall(place, cell)[0] for cell in cells[1:]]
    return found


def write(root, place, content):
    """Write one place of a copy."""
    path = root / place
    if place.endswith("/"):
        path.mkdir()
        for name, text in content.items():
            (path / name).write_text(text)
        return
    if isinstance(content, str):
        assert not path.exists()
        path.write_text(content.lstrip())
        return
    text = path.read_text()
    for anchor, added in content.items():
        assert text.count(anchor) == 1, (place, anchor)
        text = text.replace(anchor, BEFORE[anchor] + anchor if added is None else anchor + added)
    path.write_text(text)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All additions in one copy, each used by itself: six starts of torch would take a minute."""
    root = tmp_path_factory.mktemp("with additions")
    copy = root / "engine"
    for package in (ENGINE, ROOT / "tasks", ROOT / "flows", ROOT / "deployments" / "recipes"):
        where, left = root / package.relative_to(ROOT), shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, where, ignore=left)
    records = root / "tests" / "helpers" / "runs"  # which figures are made of
    records.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "helpers" / "runs" / "made_records.py", records)
    for each in ADDITIONS.values():
        write(copy, *each.entry)
        write(copy, *each.member)
    uses = {name: each.use for name, each in ADDITIONS.items()}
    code = (
        f"{COMMON}\nimport sys, traceback\nassert engine.__file__.startswith({str(root)!r})\n"
        f"for name, use in json.loads(sys.stdin.read()).items():\n"
        "    try:\n        exec(use, dict(globals()))\n        print(json.dumps([name, '']))\n"
        "    except Exception:\n"
        "        print(json.dumps([name, traceback.format_exc()]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"},
        input=json.dumps(uses),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(line) for line in run.stdout.splitlines() if line.startswith("["))


@pytest.mark.slow
@pytest.mark.parametrize("what", ADDITIONS)
def test_an_addition_works_from_its_two_places(what, outcomes):
    """A third place that has to know of it shows here, and not after a run of hours."""
    assert outcomes[what] == ""


@pytest.mark.parametrize("what", ADDITIONS)
def test_the_table_names_the_places_that_the_addition_wrote(what):
    """Whoever follows the table does what was tried."""
    each = ADDITIONS[what]
    written = [f"engine/{place}" for place, _ in (each.entry, each.member)]
    written = [place.replace("engine/../", "") for place in written]

    named = rows()[what]

    for place, pattern in zip(written, named, strict=True):
        assert re.fullmatch(pattern.replace("<name>", r"\w+"), place), (place, pattern)


def test_every_row_of_the_table_is_tried():
    """A row that nobody carries out stops being true."""
    assert set(rows()) == set(ADDITIONS)


NAMED = {
    "MetaparameterName": {"recipes/attribution.py", "recipes/canaries.py"},  # which ask of weights
    "ModelName": {
        "recipes/arguments/text.py",
        "problems/pairs/towers.py",
    },  # which are of one model
    "OptimizerName": {"routine/optimizers.py"},
    "RateSchedule": {"routine/rates.py", "recipes/descent.py"},  # the latter: flat is no schedule
    "ScheduleName": {"preflight/injection.py"},  # which replays nothing where states are small
}
"""Where members of an enumeration are named besides the file that describes them."""


@pytest.mark.parametrize("enumeration", NAMED)
def test_nothing_else_asks_for_a_name(enumeration):
    """Whoever compares a name with one that it knows has forgotten the next one."""
    described = f"class {enumeration}(StrEnum)"
    member = re.compile(rf"\b{enumeration}\.(?!AUTO\b)[A-Z]")
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for package in ("engine", "tasks", "flows", "deployments")
        for path in (ROOT / package).rglob("*.py")
    }

    found = {name for name, text in texts.items() if member.search(text) and described not in text}

    assert found == {f"engine/{name}" for name in NAMED[enumeration]}
