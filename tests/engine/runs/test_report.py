"""What the reports of all kinds say of how to repeat a run."""

import shlex

import pytest

from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe
from engine.recipes.names import run_name
from engine.runs.report import changes_section, from_nothing, preflight_summary
from tests.helpers.runs.made_records import make_record
from tests.helpers.runs.toy_kind import Record


def record_of(recipe):
    name = run_name(recipe.descent)
    return Record(run=name, started="2026-01-01T00:00:00+00:00", seconds=1.0, recipe=recipe)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits-selection", []),
        ("digits-selection", ["outer.num_steps=3", "arguments.num_test=null", "baselines=[]"]),
        ("digits-selection", ["arguments.model.activation=gelu", "preflight=advise"]),
        ("digits-attribution", ["attribution.drops=[5, 10]"]),
        ("digits-smooth-search", ["search.learning_rates=[0.1]"]),
    ],
)
def test_command_of_the_report_makes_the_same_run(name, changes):
    """It is read as a shell and the command line read it."""
    record = record_of(load_recipe(name, changes))

    command, *words = shlex.split(from_nothing(record))

    assert (command, words[0], words[-2:]) == ("mgd", "run", ["--store", "OTHER"])
    options = words[2:-2]
    assert options[::2] == ["--set"] * len(options[::2])
    assert run_name(load_recipe(words[1], options[1::2]).descent) == record.run


def test_a_command_that_would_make_another_run_is_not_offered():
    """Keys of a grid have dots themselves, which assignments would take apart."""
    changes = ["search.grid={arguments.model.activation: [relu, gelu]}"]

    assert from_nothing(record_of(load_recipe("digits-smooth-search", changes))) is None


@pytest.mark.parametrize("name", ["mine", "../digits-selection", "x; rm -rf ~"])
def test_no_command_is_offered_for_what_does_not_ship(name):
    """The recipe that lies in a store may name code, and is not to be given as a file."""
    recipe = DescentRecipe(name="mine").model_copy(update={"name": name})

    assert from_nothing(record_of(recipe)) is None


@pytest.mark.parametrize(
    ("verdict", "value", "limit", "told"),
    [
        (Verdict.PASS, 0.5, 1.0, "0.5 (≤ 1)"),
        (Verdict.PASS, None, 1.0, "done"),
        (Verdict.REFUSE, 3.0, 1.0, "refuse: 3 (≤ 1)"),
        (Verdict.REFUSE, None, 1.0, "refuse"),
    ],
)
def test_a_check_without_a_figure_is_not_said_to_be_done_where_it_refuses(
    verdict, value, limit, told
):
    """A loss that became NaN has no figure: "refuse: done" says nothing to anybody."""
    check = Check(name="training", verdict=verdict, value=value, limit=limit, cause="It diverged.")

    assert preflight_summary(CheckReport(verdict=verdict, checks=[check]))[1] == {"training": told}


def test_an_argument_that_is_none_is_said_not_to_be_set():
    """The name of an argument with nothing behind it looked like a value that was lost."""
    arguments = {"folder": "pictures", "objective": None}
    own = {"problem": "birds.py:birds", "arguments": arguments}

    chips = changes_section(make_record().recipe.model_copy(update=own)).chips

    assert chips["arguments.folder"] == "pictures"
    assert chips["arguments.objective"] == "not set"
