"""What is said of later steps; what is found there is in ``tests/strangers/wrong_later.py``."""

import pytest

import engine
from engine.errors import WitnessError
from engine.replay.interpreter import Sweep
from engine.replay.refusals import later_steps
from engine.schedules.trees import Forward, Reverse
from tests.helpers.trainings import routines


@pytest.mark.parametrize(("found", "said"), [(None, "In step 4, 6, 7 no finite"), (1e-7, "")])
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


def test_of_a_part_only_the_steps_in_it_are_looked_at(monkeypatch):
    """A run of stages is reversed part by part, and each step is looked at once."""
    asked = []

    def compared(routine, here):
        asked.append(here.step)
        return 1e-9, ""

    monkeypatch.setattr(later_steps, "compare_loss", compared)
    run = routines.routine(num_steps=8)
    later = later_steps.LaterSteps(run, run.point())
    sweep = Sweep(state=run.initial_state())

    for step in (3, 2, 5):
        later(Reverse(step), sweep)
    later(Forward(4, 5), sweep)
    assert not asked
    later(Reverse(7), sweep)
    for step in (6, 5, 4):
        later(Reverse(step), sweep)
    assert asked == [7, 6, 4]


def test_a_stage_keeps_what_is_wrong_and_goes_on(monkeypatch):
    """Its result is the same whatever follows from it, which the run says and no key has."""

    def wrong(routine, here):
        raise WitnessError("It is off.")

    monkeypatch.setattr(later_steps, "compare_loss", wrong)
    run = routines.routine(num_steps=8)
    sweep = Sweep(state=run.initial_state())

    later = later_steps.LaterSteps(run, run.point(), refuses=False)
    later(Reverse(7), sweep)
    assert later.wrong[0].startswith("It is off. That is so in step 7")
    with pytest.raises(WitnessError, match="That is so in step 7"):
        later_steps.LaterSteps(run, run.point())(Reverse(7), sweep)
