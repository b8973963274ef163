"""What the command ``mgd`` does before it can load anything: other packages of the same names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgd_command import PACKAGES, another

ROOT = Path(__file__).parents[3]


def started(folder, *arguments):
    """``mgd``, called as its script calls it, by somebody whose PYTHONPATH begins with a folder."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    code = "from mgd_command import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
def test_another_package_that_comes_first_is_one_message(package, file, tmp_path):
    """The names are common ones; it ended in an ImportError far from the cause."""
    path = tmp_path / file.format(package)
    path.parent.mkdir(exist_ok=True)
    path.write_text("")

    ended = started(tmp_path, "--version")

    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"finds another one before it: {path}. Take its folder out" in ended.stderr


@pytest.mark.slow
def test_a_folder_that_is_no_package_is_in_nobodys_way(tmp_path):
    """Python takes a package before a folder that is none, wherever that stands."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()

    ended = started(tmp_path, "--version")

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_own_packages_are_found(package):
    """Else every command would end here."""
    assert another(package) is None
