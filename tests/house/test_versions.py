"""Bounds of versions and the locked ones: what is promised is what the tests run with."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
RUN_TIME = [Requirement(text) for text in PROJECT["dependencies"]] + [
    Requirement(text) for name in EXTRAS if name not in ("dev", "test") for text in EXTRAS[name]
]
ALL = RUN_TIME + [Requirement(text) for text in EXTRAS["test"]]
PAIRS = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
LOCKED = {canonicalize_name(name): Version(version) for name, version in PAIRS}

OLDER = {"torch", "fastapi", "sqlalchemy", "prefect-ray", "prefect-dask", "traker", "peft"}
"""Packages of which older versions than the tested ones are let in, for a reason or as pinned."""


def locked(requirement):
    return LOCKED.get(canonicalize_name(requirement.name))


@pytest.mark.parametrize("requirement", ALL, ids=lambda each: each.name)
def test_locked_version_is_within_the_bounds(requirement):
    """Pip would otherwise refuse to install the project with its own constraints."""
    version = locked(requirement)

    assert version is None or version in requirement.specifier


@pytest.mark.parametrize("requirement", RUN_TIME, ids=lambda each: each.name)
def test_oldest_version_is_the_tested_one(requirement):
    """An older one may compute other bits, or lack a check that a hostile file needs."""
    version = locked(requirement)
    if version is None or requirement.name in OLDER:
        return
    (oldest,) = [Version(each.version) for each in requirement.specifier if each.operator == ">="]

    assert oldest.release[:2] == version.release[:2]


def test_sqlalchemy_is_one_whose_inserts_prefects_scheduler_knows():
    """With 2.1 no schedule makes a run, and only the server's log says so."""
    (requirement,) = [each for each in RUN_TIME if each.name == "sqlalchemy"]

    assert "2.1.0" not in requirement.specifier
    assert "asyncio" in requirement.extras
    assert LOCKED["sqlalchemy"] < Version("2.1")
