"""The library without the packages of the pipeline: what `pip install .` gives.

Here they are installed, so a process is made that cannot find them.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXAMPLE = re.search(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
MODULES = {"prefect", "fastapi", "sqlalchemy", "typer", "rich", "jinja2", "matplotlib"}
MODULES |= {"sklearn", "scipy"}
"""What the extra `pipeline` brings, as it is imported."""

WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(MODULES)}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [Without if each is PathFinder else each for each in sys.meta_path]
"""


def run(code, tmp_path, *, check=True):
    """Run a script that cannot import the packages of the pipeline."""
    script = tmp_path / "script.py"
    script.write_text(WITHOUT + code)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


def test_packages_that_are_hidden_are_those_of_the_extra():
    """A package that moves into the extra has to be hidden here too."""
    imported = {"scikit-learn": "sklearn"}
    names = [
        each.split(">")[0].split("[")[0] for each in PROJECT["optional-dependencies"]["pipeline"]
    ]

    assert {imported.get(name, name) for name in names} == MODULES


@pytest.mark.slow
def test_first_example_of_the_readme_runs(tmp_path):
    """Whoever wants a metagradient in a notebook installs no server for it."""
    run(EXAMPLE[1], tmp_path)


BUILT_ON_RICH = ["engine.progress.at_foot"]
"""Modules whose classes are Rich's, made larger: they are imported where Rich is used."""

EVERY_MODULE = f"""
import importlib, pkgutil, engine
[getattr(engine, name) for name in engine.__all__]
for module in pkgutil.walk_packages(engine.__path__, "engine."):
    if module.name not in {BUILT_ON_RICH}:
        importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_every_module_and_public_name_is_imported(tmp_path):
    """What a part needs beside the library is imported where it is used."""
    run(EVERY_MODULE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("from engine.reports.canvas import new_figure\nnew_figure(3.0)", "matplotlib"),
        ("from engine.reports.page import templates\ntemplates()", "jinja2"),
        ("from engine.reports.intervals import interval\ninterval([1.0, 2.0])", "scipy"),
        (
            "from engine.problems.built import build_problem\n"
            "from engine.recipes.files import load_recipe\n"
            "build_problem(load_recipe('digits-selection'))",
            "scikit-learn",
        ),
    ],
)
def test_part_that_needs_the_extra_says_so(code, package, tmp_path):
    """A traceback about a module says nothing of how it is installed."""
    done = run(code, tmp_path, check=False)

    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigurationError" in last
    assert f"needs the package {package}" in last
    assert "pip install -c constraints.txt -e '.[pipeline]'" in last


@pytest.mark.slow
def test_command_line_says_what_it_needs(tmp_path):
    """The library installs the command, too."""
    done = run("from mgd_command import main\nmain()", tmp_path, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("mgd needs the package")
    assert "pip install -c constraints.txt -e '.[pipeline]'" in done.stderr
    assert "Traceback" not in done.stderr
