"""Advice to install something, which people copy and paste."""

import re
import tomllib
from pathlib import Path

import pytest

from engine import extras

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


def test_command_is_that_of_a_clone():
    """It is typed where the project was cloned, and keeps the locked versions."""
    assert extras.install("parquet") == (
        "pip install -c constraints.txt -e '.[parquet]' (in the clone)"
    )


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev", "test"}))
def test_wheel_without_a_clone_names_the_packages(extra, monkeypatch, tmp_path):
    """There is no folder then whose extra could be installed."""
    monkeypatch.setattr(extras, "CLONE", tmp_path)

    command = extras.install(extra)

    names = [re.match(r"[\w-]+", each).group() for each in EXTRAS[extra]]
    assert all(f"'{name}" in command for name in names)
    assert extras.PROJECT not in command
