"""The table of kinds: every kind of recipe is there, with a record that says what it must."""

import subprocess
import sys

import pytest

from engine.recipes.files import KINDS
from engine.recipes.kinds import find, kinds
from engine.runs.finished import FinishedRun


@pytest.mark.parametrize("kind", KINDS)
def test_kind_says_by_its_name_what_validates_it(kind):
    """A recipe that says another kind would be validated as that one."""
    assert KINDS[kind].model_fields["kind"].default == kind


@pytest.mark.parametrize("kind", KINDS)
def test_record_of_a_kind_says_all_that_is_asked_of_it(kind):
    """And holds settings of that very kind, so that no other record passes for it."""
    record = find(kinds()[kind].record)

    assert issubclass(record, FinishedRun)
    assert not record.__abstractmethods__
    assert record.model_fields["recipe"].annotation is KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_check_of_a_kind_is_a_function(kind):
    """``mgd check`` finds it by the same table."""
    assert callable(find(kinds()[kind].check))


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
