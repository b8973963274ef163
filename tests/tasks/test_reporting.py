"""What a run does with what its stages have found to be wrong."""

import logging

import pytest

from engine.errors import UntrustworthyError
from engine.recipes.execution import PreflightMode
from engine.stages import commits
from engine.stages.references import Ref
from tasks import reporting
from tests.helpers.runs.tiny_stages import recipe

GRADIENT = Ref(stage="reverse", key="0" * 32, content="0" * 16)


@pytest.mark.parametrize("mode", PreflightMode)
def test_wrong_later_steps_stop_a_run_that_heeds_its_preflight(monkeypatch, mode):
    """One that takes it as advice says so and goes on; what is sound is not spoken of."""
    said, found = [], {"wrong": ["It is off in step 7."]}
    monkeypatch.setattr(commits, "read_scalars", lambda store, ref: found)
    monkeypatch.setattr(reporting, "say", lambda level, words: said.append((level, words)))
    asked = recipe().model_copy(update={"preflight": mode})

    if mode is PreflightMode.ENFORCE:
        with pytest.raises(UntrustworthyError, match=r"off in step 7.*preflight=advise"):
            reporting.heed_later_steps(asked, "store", GRADIENT)
    else:
        reporting.heed_later_steps(asked, "store", GRADIENT)
        assert said == [(logging.WARNING, "It is off in step 7.")]
        found["wrong"].clear()
        reporting.heed_later_steps(asked, "store", GRADIENT)
        assert len(said) == 1


def test_row_that_was_chosen_is_named_in_its_first_column():
    """A column of its own was cut on a phone, in both of Prefect's UIs."""
    rows = [
        {"outer step": "0", "loss": "2", "chosen": ""},
        {"outer step": "1", "loss": "1", "chosen": "*"},
    ]

    assert reporting._narrow(rows) == [
        {"outer step": "0", "loss": "2"},
        {"outer step": "1 (chosen)", "loss": "1"},
    ]
