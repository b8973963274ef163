"""The table of kinds: every kind of recipe is there, with a record that says what it must."""

import subprocess
import sys

import pytest

from engine.applications import kinds
from engine.recipes.files import KINDS
from engine.runs.finished import FinishedRun


def test_every_kind_of_recipe_is_in_the_table():
    """A kind without a record could be run, and its result not be opened."""
    assert kinds.KINDS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_record_of_a_kind_says_all_that_is_asked_of_it(kind):
    """And holds settings of that very kind, so that no other record passes for it."""
    record = kinds._of(kinds.KINDS[kind].record)

    assert issubclass(record, FinishedRun)
    assert not record.__abstractmethods__
    assert record.model_fields["recipe"].annotation is KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_check_of_a_kind_is_a_function(kind):
    """``mgd check`` finds it by the same table."""
    assert callable(kinds._of(kinds.KINDS[kind].check))


def test_a_record_that_does_not_say_what_it_keeps_cannot_be_made():
    """What it forgets to keep would be cleaned away."""

    class Forgetful(FinishedRun):
        """A kind whose author forgot everything."""

    with pytest.raises(TypeError, match="refs_to_keep"):
        Forgetful.model_validate({"run": "r", "started": "", "seconds": 0, "recipe": {"name": "r"}})


def test_what_keeps_house_loads_no_application():
    """``mgd show`` and ``mgd clean`` name no kind, and load none."""
    code = """
import sys
import engine.runs.cleaning, engine.runs.overview, flows.cli.showing
print(*(name for name in sys.modules if name.startswith("engine.applications") or name == "torch"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
