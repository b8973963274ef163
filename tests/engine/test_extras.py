"""Advice to install something, which people copy and paste."""

import re
import tomllib
from pathlib import Path

import pytest

from engine import extras
from engine.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SOURCES = [path for name in ("engine", "tasks", "flows") for path in (ROOT / name).rglob("*.py")]
DOCUMENTS = [ROOT / "README.md", ROOT / "engine/README.md", ROOT / "deployments/README.md"]


def named():
    """Return every extra that a message or a document tells people to install."""
    code = "".join(path.read_text() for path in SOURCES)
    texts = "".join(path.read_text() for path in DOCUMENTS)
    return set(re.findall(r"""install\(['"](\w+)['"]\)""", code)) | set(
        re.findall(r"'\.\[(\w+)\]'", texts)
    )


@pytest.mark.parametrize("extra", sorted(named()))
def test_extra_that_people_are_told_to_install_exists(extra):
    """Pip only warns of an unknown extra, and nothing is installed."""
    assert extra in EXTRAS


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS], ids=lambda path: path.name)
def test_nobody_is_told_to_install_a_package_that_is_not_published(path):
    """Whoever registers the name would be installed by our own advice."""
    assert not re.search(r"pip install[^\n]*metagradient-descent", path.read_text())


def test_readme_lists_the_extras():
    """All that a person would ask for, and no other."""
    (row,) = re.findall(r"^\| and a part that needs more: (.*?) \|", DOCUMENTS[0].read_text(), re.M)

    assert set(re.findall(r"`(\w+)`", row)) == set(EXTRAS) - {"pipeline", "all", "test", "dev"}


def test_package_that_no_extra_brings_is_named_itself():
    """An extra that lacks it would install something else, and the advice would come again."""
    with pytest.raises(ConfigurationError, match=r"Run: pip install no_such_tracker\.$"):
        extras.load("no_such_tracker.client", "Writing", extra=None)


def test_command_is_that_of_a_clone():
    """It is typed where the project was cloned, and keeps the locked versions."""
    assert extras.install("parquet") == (
        "pip install -c constraints.txt -e '.[parquet]' (in the clone)"
    )


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """The project as a wheel has it: no clone, and the requirements in its metadata."""
    needed = [f"{each}; extra == '{extra}'" for extra, all_ in EXTRAS.items() for each in all_]
    monkeypatch.setattr(extras, "CLONE", tmp_path)
    monkeypatch.setattr(extras, "requires", lambda project: needed)


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev", "test", "all"}))
def test_wheel_without_a_clone_names_the_packages(extra):
    """There is no folder then whose extra could be installed."""
    command = extras.install(extra)

    names = [re.match(r"[\w-]+", each).group() for each in EXTRAS[extra]]
    assert all(f"'{name}" in command for name in names)
    assert extras.PROJECT not in command


@pytest.mark.usefixtures("wheel")
def test_extra_that_is_made_of_others_names_their_packages():
    """The project's own name in a command would install whoever has taken it."""
    command = extras.install("all")

    assert {"'prefect>=3.8.8,<3.10'", "'pyarrow>=26.0'"} <= set(command.split())
    assert extras.PROJECT not in command


def test_all_is_every_extra_but_those_of_developers():
    """An extra that is added later is a part of all of them."""
    (named,) = [re.search(r"\[(.*)\]", each)[1] for each in EXTRAS["all"]]

    assert set(named.split(",")) == set(EXTRAS) - {"all", "test", "dev"}


def test_package_that_is_missing_is_named_with_its_extra():
    """A traceback about a module says nothing of how it is installed."""
    with pytest.raises(ConfigurationError, match=r"Reports needs the package no_such.*pipeline"):
        extras.load("no_such.module", "Reports")


def test_package_that_lacks_another_is_not_said_to_be_missing(tmp_path, monkeypatch):
    """It is installed, and to install it again would change nothing."""
    (tmp_path / "half_installed.py").write_text("import no_such_neighbour\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="no_such_neighbour"):
        extras.load("half_installed", "Reports")
