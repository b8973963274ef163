"""Where compiled programs are kept: what lies there is run, so nobody else may write to it."""

import os
import stat
from pathlib import Path

import pytest

from engine.step.programs.programs_folder import programs_folder, removed_damaged, repaired


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "cache"


def test_folder_is_that_of_the_user_and_closed(base):
    """Whoever could write there would choose what code is run."""
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


def test_damaged_library_is_removed_and_nothing_else(base, monkeypatch):
    """A process that is ended while it links leaves half a library, which nobody could load."""
    folder = Path(programs_folder())
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    library, elsewhere = folder / "ki" / "half.so", base / "other.so"
    library.parent.mkdir()
    for place in (library, elsewhere):
        place.write_text("half")

    assert not removed_damaged(f"ImportError: {elsewhere}: file too short")
    assert not removed_damaged("RuntimeError: sizes do not match")
    assert removed_damaged(f"InductorError: ImportError: {library}: file too short")
    assert not removed_damaged(f"InductorError: ImportError: {library}: file too short")

    assert elsewhere.exists()
    assert not library.exists()


def test_program_with_damaged_libraries_is_called_again(base, monkeypatch):
    """The compiler makes what is missing; what is no library is told at once."""
    folder = Path(programs_folder())
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    libraries = [folder / "one.so", folder / "two.so"]
    for library in libraries:
        library.write_text("half")

    def program(number):
        for library in libraries:
            if library.exists():
                raise ImportError(f"{library}: file too short")
        return number / number

    called = repaired(program)

    assert called(2.0) == 1
    with pytest.raises(ZeroDivisionError):
        called(0.0)
