"""Recipes that a user has started: believed in a store to the last setting, and no further."""

from pathlib import Path

import pytest

from engine.errors import ConfigurationError
from engine.recipes.files import changed, validate_recipe
from engine.recipes.names import run_name
from engine.runs import confirmed
from engine.runs.confirmed import note_started, started_file, was_started
from engine.runs.run import begin_run, read_recipe
from engine.runs.stored_places import check_places


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """A place of the user's for state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def recipe(url="rows.csv", **more):
    arguments = {"url": url, "label": "y"}
    return validate_recipe({"name": "mine", "problem": "table", "arguments": arguments} | more, "")


def test_recipe_that_was_started_here_goes_on_without_being_asked_about(tmp_path, monkeypatch):
    """Whoever typed ``mgd run`` has named its places, and need not name them again."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{place},{place % 2}\n" for place in range(60))
    (tmp_path / "rows.csv").write_text(f"x,y\n{rows}")
    store, mine = str(tmp_path / "store"), recipe()
    begin_run(mine, store)
    read = read_recipe(store, run_name(mine))
    with pytest.raises(ConfigurationError, match="arguments.url is rows.csv.*--trust-store"):
        check_places(read, "run", store)

    note_started(mine)

    check_places(read, "run", store)


@pytest.mark.parametrize(
    "other",
    [
        {"url": "/etc/passwd"},
        {"description": "another"},
        {"folder": "/elsewhere"},
        {"training": {"num_steps": 7}},
    ],
)
def test_recipe_that_differs_in_a_single_setting_is_asked_about(other):
    """A store that has seen one could otherwise ask for any file under its name."""
    note_started(recipe())

    with pytest.raises(ConfigurationError, match="--trust-store"):
        check_places(recipe(**other), "run", "store")


def test_workers_and_budget_may_be_others():
    """They are those of a start, and in no store."""
    mine = recipe(training={"threads": 1})
    note_started(mine)

    assert was_started(changed(mine, ["workers.runner=dask", "budget.max_seconds=3"]))


def test_file_says_nothing_of_the_recipe_and_is_the_users_alone():
    """Digests, in a file that no other user reads or writes."""
    for _ in range(2):
        note_started(recipe("s3://bucket/private.csv"))

    file = started_file()
    assert "private" not in file.read_text()
    assert len(file.read_text().split()) == 1
    assert file.stat().st_mode & 0o077 == 0


def test_place_that_cannot_be_written_costs_nothing_but_the_question(tmp_path, monkeypatch):
    """A machine whose home is read-only runs all the same."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    note_started(recipe())

    assert not was_started(recipe())


def test_user_without_a_home_is_asked_and_can_run(monkeypatch):
    """As in a container whose user has no entry in any list."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", homeless)

    note_started(recipe())

    assert not was_started(recipe())


def homeless():
    raise RuntimeError("Could not determine home directory.")


def test_working_folder_confirms_nothing(tmp_path, monkeypatch):
    """It may be anybody's, with a list of what they would have believed."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.chdir(tmp_path)

    note_started(recipe())

    assert started_file().is_relative_to(tmp_path / "home")
    assert not (tmp_path / "state").exists()


def test_file_does_not_grow_for_ever(monkeypatch):
    """The oldest go; the last one stays."""
    monkeypatch.setattr(confirmed, "MOST", 4)
    made = [recipe(f"{number}.csv") for number in range(9)]

    for each in made:
        note_started(each)

    assert len(started_file().read_text().split()) <= 5
    assert was_started(made[-1])
    assert not was_started(made[0])
