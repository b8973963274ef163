"""What is said of later steps; what is found there is in ``tests/strangers/wrong_later.py``."""

import pytest

import engine
from engine.replay import later_steps
from tests import routines


@pytest.mark.parametrize(("found", "said"), [(None, "In step 4 and 7 no finite"), (1e-7, "")])
def test_later_step_that_could_not_be_compared_is_said(monkeypatch, found, said):
    """A result that says nothing of it would claim more than was seen."""
    monkeypatch.setattr(later_steps, "compare_loss", lambda routine, here: (found, ""))
    run = routines.routine(num_steps=8)

    sentence = engine.metagradient(run, routines.output).witness.sentence

    assert said in sentence
    assert ("at the start only" in sentence) == bool(said)


def test_without_a_witness_nothing_is_compared(monkeypatch):
    """Its switch turns all of it off."""

    def asked(routine, here):
        pytest.fail("it was asked")

    monkeypatch.setattr(later_steps, "compare_loss", asked)

    engine.metagradient(routines.routine(num_steps=8), routines.output, witness=False)
