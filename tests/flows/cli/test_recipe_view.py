"""``mgd recipes NAME``: every setting with its meaning, its default, and where it is set."""

import json

import pytest
from typer.testing import CliRunner

from engine.recipes.files import KINDS, list_recipes, load_recipe
from engine.recipes.forms.schemas import setting_schemas
from engine.reports.explained_settings import explained_defaults
from engine.reports.settings_rows import all_rows
from flows.cli.app import app
from tests.helpers.data.own_problem import PROBLEM, write_problem

runner = CliRunner()


def settings_of(*arguments):
    result = runner.invoke(app, ["recipes", *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return {each["key"]: each for each in json.loads(result.stdout)["settings"]}


def test_a_value_is_from_the_recipe_from_a_change_or_a_default():
    """And beside it stands what it would be."""
    found = settings_of("digits-selection", "--set", "training.seed=7")

    assert found["arguments.flip_fraction"]["origin"] == "recipe"
    assert found["arguments.flip_fraction"]["default"] == "0.0"
    assert (found["training.seed"]["origin"], found["training.seed"]["value"]) == ("override", "7")
    assert (found["training.seed"]["default"], found["outer.seed"]["origin"]) == ("0", "default")
    assert "masked-sign" in found["outer.update"]["words"]
    assert found["outer.num_steps"]["meaning"]


def test_what_is_said_twice_the_same_is_no_change():
    """``--set`` of what the file says already."""
    value = load_recipe("digits-selection").outer.num_steps

    found = settings_of("digits-selection", "--set", f"outer.num_steps={value}")

    assert found["outer.num_steps"]["origin"] == "recipe"


@pytest.mark.slow
@pytest.mark.parametrize("name", list_recipes())
def test_every_setting_is_there_with_its_value_and_a_meaning(name):
    """The same that a report calls all settings."""
    recipe, found = load_recipe(name), settings_of(name)
    rows = {key: value for key, value, _ in all_rows(recipe)}
    unsaid = {"name", "kind", "folder", "code"}

    assert {key: each["value"] for key, each in found.items()} == {
        key: value for key, value in rows.items() if key not in unsaid
    }
    assert [key for key, each in found.items() if not each["meaning"]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_defaults(kind):
    """For a recipe whose problem is code, which is not loaded to complete its settings."""
    rows = explained_defaults(KINDS[kind])

    assert {"training.num_steps", "replay.schedule"} <= {each.key for each in rows}
    assert all(each.value == each.default for each in rows)


def test_all_of_them_are_tables_of_their_groups():
    """With the value that is not the default's beside the default's."""
    result = runner.invoke(app, ["recipes", "digits-selection", "--all"], env={"COLUMNS": "160"})

    assert result.exit_code == 0
    assert "arguments.model" in result.stdout
    assert "recipe; default 0.0" in result.stdout


@pytest.mark.parametrize("columns", [80, 160])
def test_a_recipe_begins_with_what_people_change_and_names_the_rest(columns):
    """It was 350 lines, in which the number of outer steps stood somewhere."""
    shown = runner.invoke(app, ["recipes", "digits-selection"], env={"COLUMNS": str(columns)})
    first, _, rest = shown.stdout.partition("more, by group")

    for key in ("outer.num_steps", "training.seed", "training.device", "arguments.flip_fraction"):
        assert key in first
    assert "training.learning_rate" not in first
    words = set(rest.replace(",", " ").split())
    names = {key.rpartition(".")[2] for key in settings_of("digits-selection")}
    told = {each.partition("=")[0] for each in words} | {
        word for line in first.splitlines() for word in line.replace(".", " ").split()
    }
    assert names <= told
    assert len(shown.stdout.splitlines()) < 110


def test_a_group_is_explained_with_the_groups_in_it():
    """And one that there is not is told what there is."""
    shown = runner.invoke(app, ["recipes", "digits-selection", "--group", "arguments"])
    refused = runner.invoke(app, ["recipes", "digits-selection", "--group", "trainig"])

    assert "arguments.model" in shown.stdout
    assert "learning_rate" not in shown.stdout
    assert refused.exit_code == 2
    assert "training" in refused.stderr.partition("Did you mean")[2]


def test_settings_that_a_kind_refuses_are_not_listed():
    """An attribution listed seven of outer, and refused whoever set one."""
    assert not [key for key in settings_of("digits-attribution") if key.startswith("outer.")]
    assert not [each for each in explained_defaults(KINDS["attribution"]) if "outer." in each.key]
    assert not [key for key in setting_schemas(load_recipe("digits-attribution")) if "outer" in key]


@pytest.mark.parametrize("columns", [80, 160])
def test_no_value_and_no_name_is_broken(columns):
    """Whatever is shown is what somebody would type."""
    shown = runner.invoke(
        app, ["recipes", "digits-selection", "--all"], env={"COLUMNS": str(columns)}
    )
    listed = runner.invoke(app, ["recipes"], env={"COLUMNS": str(columns)})

    for name in ("gradient-similarity", "reverse-over-reverse", "steps_per_segment", "(empty)"):
        assert name in shown.stdout or (name == "(empty)" and columns == 160)
    assert "arguments.contrastive.target_url" in listed.stdout
    assert all(len(line) <= columns for line in shown.stdout.splitlines() if "│" in line)


def test_a_recipe_of_ones_own_is_shown_with_its_arguments(tmp_path):
    """Naming the file is what loads its code, as for ``mgd run``."""
    found = settings_of(write_problem(tmp_path, PROBLEM))

    assert found["arguments.number"]["value"] == "40"


def test_an_unknown_change_is_refused():
    """As by every command that takes changes."""
    result = runner.invoke(app, ["recipes", "digits-selection", "--set", "outer.steps=1"])

    assert result.exit_code == 2
    assert "outer.steps: unknown setting" in result.stderr


def test_list_says_of_each_recipe_what_its_validated_file_says():
    """The list reads the files alone, because validating all of them takes half a second."""
    result = runner.invoke(app, ["recipes", "--json"])

    listed = json.loads(result.stdout)
    assert [{key: row[key] for key in ("recipe", "kind", "description")} for row in listed] == [
        {"recipe": name, "kind": each.kind, "description": each.description}
        for name, each in list_recipes().items()
    ]
    assert all(
        set(row) == {*("recipe", "kind", "description"), "data", "gpu", "seconds"} for row in listed
    )
