"""A folder that was renamed, copied or put in another's place is never read as what it replaced."""

import shutil
from pathlib import Path

import pytest
import torch

from engine.errors import CheckpointCorruptError
from engine.recipes.files import load_recipe
from engine.stages import commits
from engine.stages.keys import Declaration
from engine.stages.run import Run

RECIPE = load_recipe("digits-selection", ["arguments.num_train=20", "training.num_steps=2"])


def made(store, number):
    """A stage whose row and whose loss are a number."""

    def compute():
        return {"row": torch.full((3,), float(number))}, {"loss": number}

    return commits.run_stage(Declaration("some"), Run(RECIPE, store), {"number": number}, compute)


def folder_of(store, ref):
    return Path(commits.committed_folder(store, ref))


def attempt_of(store, ref):
    return next((folder_of(store, ref) / "attempts").iterdir())


def exchange(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def exchanged_stages(store, one, other):
    """Two folders that were renamed."""
    exchange(folder_of(store, one), folder_of(store, other))


def a_copied_record(store, one, other):
    """The record alone is that of another stage."""
    shutil.copy(folder_of(store, other) / "record.json", folder_of(store, one) / "record.json")


def exchanged_rows(store, one, other):
    """The records stay, and what they are about moves; each folder keeps its own name."""
    exchange(attempt_of(store, one), attempt_of(store, other))


def a_row_with_its_mark(store, one, other):
    """A row and its mark, which agree, of a group that says whose it is."""
    for part in ("row", "committed"):
        shutil.rmtree(attempt_of(store, one) / part)
        shutil.copytree(attempt_of(store, other) / part, attempt_of(store, one) / part)


EXCHANGES = (exchanged_stages, a_copied_record, exchanged_rows, a_row_with_its_mark)


@pytest.mark.parametrize("exchanged", EXCHANGES, ids=lambda each: each.__name__)
def test_rows_of_another_stage_are_not_read(exchanged, tmp_path):
    """They are whole, and their checksums are right: only the reference tells whose they are."""
    store = str(tmp_path)
    one, other = made(store, 1), made(store, 2)

    exchanged(store, one, other)

    with pytest.raises(CheckpointCorruptError):
        commits.read_rows(store, one)
    with pytest.raises(CheckpointCorruptError):
        commits.committed_rows(store, one).arrays()
    assert commits.find("some", one.key, store) is None


@pytest.mark.parametrize("exchanged", [exchanged_stages, a_copied_record], ids=lambda e: e.__name__)
def test_numbers_of_another_stage_are_not_read(exchanged, tmp_path):
    """The message says whose they are, and what to do."""
    store = str(tmp_path)
    one, other = made(store, 1), made(store, 2)

    exchanged(store, one, other)

    for read in (commits.read_scalars, commits.read_inputs, commits.read_origin):
        with pytest.raises(CheckpointCorruptError, match=f"and holds some {other.key[:8]}"):
            read(store, one)


def test_a_stage_with_other_bits_is_not_the_one_that_was_asked_for(tmp_path):
    """A run's record names bits; a stage that has others now is no part of it."""
    store = str(tmp_path)
    ref = made(store, 1)

    with pytest.raises(CheckpointCorruptError, match="with the digest 0000000000000000"):
        commits.read_rows(store, ref.model_copy(update={"content": "0" * 16}))


def test_exchanged_stages_are_made_again_by_the_next_start(tmp_path):
    """Whoever asks for the stage makes it, with the same bits as before."""
    store = str(tmp_path)
    one, other = made(store, 1), made(store, 2)
    exchange(folder_of(store, one), folder_of(store, other))

    assert (made(store, 1), made(store, 2)) == (one, other)
    assert commits.read_rows(store, one)["row"].tolist() == [1.0, 1.0, 1.0]
