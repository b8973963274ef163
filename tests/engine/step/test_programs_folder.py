"""Where compiled programs are kept: what lies there is run, so nobody else may write to it."""

import os
import stat
from pathlib import Path

import pytest

from engine.step.compiling import programs_folder


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "cache"


def test_folder_is_that_of_the_user_and_closed(base):
    before = os.umask(0)
    try:
        folder = Path(programs_folder())
    finally:
        os.umask(before)

    assert folder == base / "metagradient-descent" / "programs"
    assert programs_folder() == str(folder)
    for place in (folder, folder.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def open_to_all(base):
    (base / "metagradient-descent").mkdir(parents=True)
    (base / "metagradient-descent").chmod(0o777)


def a_link(base):
    (base / "metagradient-descent").mkdir(parents=True, mode=0o700)
    (base / "elsewhere").mkdir()
    (base / "metagradient-descent" / "programs").symlink_to(base / "elsewhere")


def a_file(base):
    base.write_text("")


@pytest.mark.parametrize("made", [open_to_all, a_link, a_file])
def test_folder_that_others_could_fill_is_not_used(base, made):
    """Then each process has one of its own."""
    made(base)

    folder = Path(programs_folder())

    assert base not in folder.parents
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert programs_folder() != str(folder)
