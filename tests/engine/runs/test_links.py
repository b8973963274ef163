"""Folders of a run that are links: nothing is written through them."""

from pathlib import Path

import pytest

from engine.errors import CheckpointCorruptError
from engine.recipes.files import load_recipe
from engine.recipes.names import run_name
from engine.runs.run import begin_run, list_runs
from engine.storage.places import AT_WORK, CLAIMS, PROGRESS, STARTS

RECIPE = load_recipe("digits-selection", ["training.num_steps=2"])


@pytest.mark.parametrize("inside", ["", CLAIMS, STARTS, AT_WORK, PROGRESS])
def test_a_run_whose_folder_is_a_link_does_not_begin(inside, local, tmp_path_factory):
    """The name of a run is known before: whoever can write to the store could have put it there."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    place = local_path(local, inside)
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)

    with pytest.raises(CheckpointCorruptError, match="is a link to another place"):
        begin_run(RECIPE, local)

    assert list(elsewhere.iterdir()) == []
    if not inside:
        assert list_runs(local) == []  # what is a link is no run
    place.unlink()
    begin_run(RECIPE, local)


def test_a_file_that_is_a_link_is_replaced_and_not_followed(local, tmp_path_factory):
    """What it leads to stays as it is."""
    precious = tmp_path_factory.mktemp("elsewhere") / "precious"
    precious.write_text("mine")
    place = local_path(local, "recipe.json")
    place.parent.mkdir(parents=True)
    place.symlink_to(precious)

    begin_run(RECIPE, local)

    assert precious.read_text() == "mine"
    assert not place.is_symlink()


def local_path(store, inside):
    return Path(store, "runs", run_name(RECIPE), *filter(None, [inside]))
