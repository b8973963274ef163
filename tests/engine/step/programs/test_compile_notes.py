"""Notes on compiled products: they come back for the same product alone, and damage is no note."""

from dataclasses import replace

import pytest

from engine.step.programs.compile_notes import CompileNote, keep_note, read_note
from tests.engine.step.small_routine import small_routine


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_note_comes_back_for_the_same_product_alone():
    """A longer run has the same product; another batch size is another program."""
    keep_note(small_routine(), 30.0, 0.8)

    assert read_note(replace(small_routine(), num_steps=9)) == CompileNote(30.0, 0.8)
    assert read_note(replace(small_routine(), batch_size=3)) is None


def test_least_wait_and_last_share_are_kept():
    """The first process compiles, the others load: what is waited for next is the least."""
    keep_note(small_routine(), 30.0, 0.8)
    keep_note(small_routine(), 4.0, 0.7)
    keep_note(small_routine(), 6.0, 0.9)

    assert read_note(small_routine()) == CompileNote(4.0, 0.9, times=3)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"seconds": 1}', '{"seconds": NaN, "share": 1, "times": 1}',
     '{"seconds": -1, "share": 1, "times": 1}', '{"seconds": "1", "share": 1, "times": 1}'],
)  # fmt: skip
def test_damaged_note_is_none(folder, text):
    """It is a hint; whoever finds none measures."""
    keep_note(small_routine(), 30.0, 0.8)
    (place,) = (folder / "notes").iterdir()
    place.write_text(text)

    assert read_note(small_routine()) is None


def test_folder_that_takes_no_note_gets_none(folder):
    """A full disk, or a file in its place, must not end a run."""
    (folder / "notes").write_text("")

    keep_note(small_routine(), 30.0, 0.8)

    assert read_note(small_routine()) is None
