"""Names of the project in what people read: every module, object and file that is named exists."""

import ast
import re
from collections import defaultdict
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *("README.md", "engine/README.md", "engine/DESIGN.md", "deployments/README.md"),
    *sorted(str(each.relative_to(ROOT)) for each in (ROOT / "engine" / "docs").glob("**/*.md")),
]
"""The change log may name what is gone, and records say what was run at their time."""
FOLDERS = ("engine", "tasks", "flows", "tests", "deployments")
MODULES = sorted(
    path
    for folder in ("engine", "tasks", "flows", "tests")
    for path in (ROOT / folder).rglob("*.py")
)

NAME = re.compile(r"(?<![\w./@:-])(?:engine|tasks|flows|tests)(?:\.[A-Za-z_]\w*)+(?![\w/*-])")
"""E.g. ``engine.step.step.plain_step``."""

PLACE = re.compile(
    r"(?<![\w./@:<>-])(?:engine|tasks|flows|tests|deployments)/[\w./-]*[\w/](?![\w*<{])"
)
"""E.g. ``engine/step/step.py``, ``tests/bench/results/``."""

FILE = re.compile(r"`([\w-]+\.py)`")
"""A bare file, e.g. ``test_names.py``: one that lies beside whoever names it."""

OTHERS = {
    "deployments/.env": "made by whoever deploys",
    "my_file.py": "of a user, in an example",
    "flowers.py": "of a user, in the tutorial",
    "test_flowers.py": "of a user, in the tutorial",
    "utils.py": "of a user, beside a problem",
    "random.py": "of a user, in the place of Python's",
}
"""What is named and is not there."""


def words_of(path):
    """Return the docstrings of a module, or all of a document."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    found = []
    for node in ast.walk(ast.parse(text)):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds):
            found.append(ast.get_docstring(node) or "")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.append(str(node.value.value))  # below an attribute
    return "\n".join(found)


@cache
def exists(name):
    """Say whether a dotted name is a module, or leads from one to what it holds."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        if place.with_suffix(".py").is_file() or place.is_dir():
            break
    else:
        return False
    if length == len(parts):
        return True
    holder = import_module(".".join(parts[:length]))
    for part in parts[length:]:
        annotations = getattr(holder, "__annotations__", {})
        if not hasattr(holder, part) and part not in annotations:
            return False
        holder = getattr(holder, part, None)
    return True


def dead(text, folder=ROOT):
    """Return the names in a text that lead nowhere; bare files are looked for in a folder."""
    names = [name for name in NAME.findall(text) if not exists(name)]
    places = [each for each in PLACE.findall(text) if not (ROOT / each.rstrip(".")).exists()]
    files = [each for each in FILE.findall(text) if not (folder / each).exists()]
    return [each for each in (*names, *places, *files) if each not in OTHERS]


@pytest.mark.parametrize("path", [ROOT / name for name in DOCUMENTS], ids=lambda p: p.name)
def test_every_name_in_a_document_exists(path):
    """Whoever follows a name that has moved finds nothing, and trusts the next one less."""
    assert dead(words_of(path), path.parent) == []


@pytest.mark.slow
def test_every_name_in_a_docstring_exists():
    """As in documents; they are what help() shows."""
    found = {str(path.relative_to(ROOT)): dead(words_of(path), path.parent) for path in MODULES}

    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("`engine.step.step.plain_step` and `engine.Routine`", []),
        ("`engine.step.step.plain_leap`", ["engine.step.step.plain_leap"]),
        ("`engine.stride.step`", ["engine.stride.step"]),
        ("see engine/step/step.py and `tests/bench/results/`", []),
        ("see engine/step/leap.py.", ["engine/step/leap.py"]),
        ("`pyproject.py`", ["pyproject.py"]),
        ("`engine.Routine.batch_size`", []),
    ],
)
def test_a_dead_name_is_found(text, names):
    """The guard itself, on names that exist and on others."""
    assert dead(text) == names


def test_every_folder_of_the_engine_has_a_row():
    """A floor that nobody is told of is not found."""
    text = (ROOT / "engine" / "README.md").read_text().partition("## Where things are")[2]

    rows = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)

    assert sorted(rows) == sorted(p.parent.name for p in (ROOT / "engine").glob("*/__init__.py"))


def test_every_decision_is_found_by_its_topic():
    """The index is how somebody finds one of so many; what it lacks is read by nobody."""
    folder = ROOT / "engine" / "docs" / "decisions"
    listed = re.findall(
        r"^- \[(\d+)\]\(docs/decisions/(\w+\.md)#([\w-]+)\) (.*?)(?: \*\(.*\)\*)?$",
        (ROOT / "engine" / "DESIGN.md").read_text(),
        re.MULTILINE,
    )

    decided = []
    for path in sorted(folder.glob("*.md")):
        found = re.findall(r"^## ((\d+)\. (.*))$", path.read_text(), re.MULTILINE)
        decided += [(n, path.name, anchor(heading), title) for heading, n, title in found]
        assert [int(n) for _, n, _ in found] == sorted(int(n) for _, n, _ in found), path.name

    assert sorted(decided) == sorted(listed)
    assert len({number for number, *_ in listed}) == len(listed)


def anchor(heading):
    """Return the fragment that GitHub gives a heading."""
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


def test_a_decision_that_was_replaced_says_so_in_the_index():
    """Whoever reads only the list must not take an old decision for what holds."""
    index = (ROOT / "engine" / "DESIGN.md").read_text()
    for path in sorted((ROOT / "engine" / "docs" / "decisions").glob("*.md")):
        for number, head in re.findall(
            r"^## (\d+)\. .*\n\n\*(.*[Rr]eplaced.*)\*$", path.read_text(), re.M
        ):
            line = next(each for each in index.splitlines() if each.startswith(f"- [{number}]"))
            later = re.findall(r"by (\d+)", head)[0]
            assert f"replaced by {later})*" in line, number


def test_a_public_class_has_a_name_of_its_own():
    """Somebody who searches for a word finds one thing. Private classes stay in their file."""
    places = defaultdict(list)
    for path in MODULES:
        if path.is_relative_to(ROOT / "tests") or "docs" in path.parts:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))

    assert {name: found for name, found in places.items() if len(found) > 1} == {}
