"""``mgd new``: files to begin a problem from, with a recipe and a test that passes."""

import ast
import builtins
import sys
from enum import StrEnum
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import NamedTuple

from engine.errors import ConfigurationError
from engine.extras import install
from engine.recipes.code.sources import PROJECT
from engine.recipes.code.user_code import is_installed
from engine.secret_urls import refuse_secrets
from flows.cli.terminal.screen import say

_TEMPLATES = Path(__file__).with_name("templates")


class StartingPoint(StrEnum):
    """What a new problem begins from."""

    SCRIPT = "script"
    IMAGE_FOLDER = "image_folder"
    TABLE = "table"
    TEXTS = "texts"
    INSTRUCTIONS = "instructions"
    PAIRS = "pairs"
    HF_DATASET = "hf_dataset"


class _Begin(NamedTuple):
    """What the files of one kind of start have of their own."""

    arguments: str
    """Arguments in the recipe."""

    sample: str
    """Body of the test's function that makes a little data and returns changes of the recipe."""

    change: str
    """What the user has to change before the first run; empty if nothing."""

    needs: tuple[str, str] = ("", "")
    """Package that reads the data, and the extra that brings it; empty if none is needed."""

    batch_size: int = 25
    rate: float = 0.05
    optimizer: str = "{name: sgd, momentum: 0.9}"


_PICTURES = """\
    image = pytest.importorskip("PIL.Image", reason="pictures need the package pillow")
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (folder / name).mkdir()
        for number in range(12):
            shade = tuple(max(part - 9 * number, 0) for part in colour)
            image.new("RGB", (12, 12), shade).save(folder / name / f"{number}.png")
    return [f"arguments={{folder: {folder}, size: 8}}"]"""

_ROWS = """\
    import numpy  # npz, because CSV and Parquet need the package pyarrow

    number = numpy.arange(30)
    kind = numpy.array(["a", "b"])[number % 2]
    numpy.savez(folder / "rows.npz", x=number % 7, y=number * 3 % 11, kind=kind)
    return [f"arguments={{url: {folder / 'rows.npz'}, label: kind}}"]"""

_LINES = """\
    pytest.importorskip("transformers", reason="language models need the extra lm")
    for name in ("one", "other"):
        lines = [f"the {name} line number {number} of many" for number in range(40)]
        (folder / f"{name}.txt").write_text("\\n".join(lines))
    one, other = folder / "one.txt", folder / "other.txt"
    return [f"arguments={{sources: [{one}, {other}], target: {other}, num_train: 24}}"]"""

_ANSWERS = """\
    pytest.importorskip("transformers", reason="language models need the extra lm")
    rows = [f'{{"instruction": "add {n} and 2", "output": "{n + 2}"}}' for n in range(30)]
    (folder / "rows.jsonl").write_text("\\n".join(rows))
    return [f"arguments={{url: {folder / 'rows.jsonl'}}}"]"""

_PAIRS = """\
    image = pytest.importorskip("PIL.Image", reason="pictures need the package pillow")
    for number in range(30):
        name, colour = (("red", (200, 0, 0)), ("blue", (0, 0, 200)))[number % 2]
        shade = tuple(max(part - 5 * number, 0) for part in colour)
        image.new("RGB", (12, 12), shade).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {name} square, number {number}")
    return [f"arguments={{url: {folder}, num_train: 12, num_held_out: 6, size: 8}}"]"""

_SAVED = """\
    datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
    rows = {"x": [n % 7 / 7 for n in range(30)], "kind": ["ab"[n % 2] for n in range(30)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder / "saved"))
    return [f"arguments={{source: {folder / 'saved'}, inputs: [x], label: kind}}"]"""

_NOTHING = """\
    del folder
    # Those of the recipe; where they are slow, fewer examples: ["arguments.num_train=30"].
    return []"""

_BEGINS = {
    StartingPoint.SCRIPT: _Begin("{num_train: 300}", _NOTHING, ""),
    StartingPoint.IMAGE_FOLDER: _Begin(
        "{folder: pictures}", _PICTURES, "arguments.folder", ("PIL", "clip"), rate=0.01
    ),
    StartingPoint.TABLE: _Begin(
        "{url: table.csv, label: label}", _ROWS, "arguments.url and label", ("pyarrow", "parquet")
    ),
    StartingPoint.TEXTS: _Begin(
        "{sources: [one.txt, other.txt], target: other.txt}",
        _LINES,
        "arguments.sources and target",
        ("transformers", "lm"),
        rate=0.003,
        optimizer="{name: adamw, eps_root: 1.0e-6}",
    ),
    StartingPoint.INSTRUCTIONS: _Begin(
        "{url: rows.jsonl}",
        _ANSWERS,
        "arguments.url",
        ("transformers", "lm"),
        rate=0.003,
        optimizer="{name: adamw, eps_root: 1.0e-5}",
    ),
    StartingPoint.PAIRS: _Begin(
        "{url: pairs}",
        _PAIRS,
        "arguments.url",
        ("PIL", "clip"),
        rate=0.002,
        optimizer="{name: adamw, eps_root: 1.0e-8}",
    ),
    StartingPoint.HF_DATASET: _Begin(
        "{source: saved, inputs: [x], label: label}",
        _SAVED,
        "arguments.source, inputs and label",
        ("datasets", "datasets"),
    ),
}


def begin(name: str, start: StartingPoint, folder: Path) -> list[Path]:
    """Write a problem, its recipe and its test; return the files.

    Args:
        name: Name of the function and the files.
        start: What the problem begins from.
        folder: Where to.

    Raises:
        ConfigurationError: If the name is none of Python's, or a file is there already.
    """
    _check_name(name, start)
    refuse_secrets("--folder", str(folder), is_place=True)
    _check_folder(folder)
    files = {
        folder / f"{name}.py": f"{start.value}.py.txt",
        folder / f"{name}.yaml": "recipe.yaml.txt",
        folder / f"test_{name}.py": "test.py.txt",
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise ConfigurationError(
            f"{there[0]} is there already, and nothing is overwritten. Choose another name."
        )
    given = _BEGINS[start]._asdict() | {
        "name": name,
        "slug": name.strip("_").replace("_", "-").lower() or "own",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in files.items():
            text = (_TEMPLATES / template).read_text(encoding="utf-8")
            path.write_text(Template(text).substitute(given), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be written ({type(error).__name__}: {error}). Choose another folder."
        ) from error
    return list(files)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which the test would import another ``engine``."""
    for path in (folder / "engine.py", folder / "engine" / "__init__.py"):
        if path.is_file() and folder.resolve() != PROJECT:
            raise ConfigurationError(
                f"{path} has the name of the package that a problem's file, its test and notebooks "
                "import, and would be found in its place. Choose another folder, e.g. --folder "
                f"{folder / 'problem'}, or give it another name."
            )


def _check_name(name: str, start: StartingPoint) -> None:
    """Refuse what cannot be the name of a function, of its file and of its test at once."""
    if not name.isidentifier() or not name.isascii():
        raise ConfigurationError(
            f"{name!r} cannot be the name of a function. Use letters, digits and _, e.g. flowers."
        )
    if len(name) > _LONGEST:
        raise ConfigurationError(
            f"The name has {len(name)} characters, but files are called by it. Use at most "
            f"{_LONGEST}."
        )
    what = None
    if iskeyword(name) or hasattr(builtins, name):
        what = "is a word of Python's, which"
    elif name in sys.stdlib_module_names:
        what = "is a module of Python's, which"
    elif is_installed(name):
        what = "is an installed package, which"
    elif name.startswith("test_") or name == "conftest":
        what = "is what pytest looks for, which"
    elif name in _names_in((_TEMPLATES / f"{start.value}.py.txt").read_text(encoding="utf-8")):
        what = "is another name in the file that is written, which"
    if what is not None:
        raise ConfigurationError(
            f"{name} {what} a file {name}.py would stand in the way of. Choose another name, e.g. "
            f"my_{name}."
        )


_LONGEST = 100
"""Characters of a name: files have 255 at most, and their names more than this one."""


def _names_in(template: str) -> set[str]:
    """Return the names that the head of a file has besides that of its function."""
    text = Template(template).safe_substitute(name="_the_function")
    found: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(each.asname or each.name).partition(".")[0] for each in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


_PACKAGES = {"PIL": "pillow"}
"""Packages that are installed by another name than they are imported by."""


def tell(files: list[Path], start: StartingPoint) -> None:
    """Say what was written, and what to do next."""
    for path in files:
        say(f"Wrote {path}")
    change, (package, extra) = _BEGINS[start].change, _BEGINS[start].needs
    if package and not find_spec(package):
        what = (
            "CSV and Parquet need"
            if start is StartingPoint.TABLE
            else "The data, and the test, need"
        )
        say(f"{what} the package {_PACKAGES.get(package, package)}. Run: {install(extra)}")
    if change:
        say(f"Set {change} in {files[1]}, then:")
    missing = "" if find_spec("pytest") else "   (pip install pytest first)"
    say(f"pytest {files[2]}   compares its metagradient with central differences{missing}")
    say(f"mgd check {files[1]}   tries short twins of the run")
    say(f"mgd run {files[1]}")
