"""Whether a run trains, told from its first and its last state alone."""

import pytest
import torch
from torch import nn

import engine
from engine.preflight.training import LongRun, check_training
from engine.preflight.verdict import Verdict


def run(last, losses=(1.0, 1.0)):
    """A run of one weight w, whose loss is w squared: 1 at its start."""
    routine = engine.Routine(
        nn.Linear(1, 1, bias=False).double(),
        lambda model, batch: model(batch[0]).square().flatten(),
        (torch.ones(4, 1).double(),),
        engine.sgd(),
        learning_rate=0.1,
        num_steps=2,
        batch_size=2,
    )
    states = [{"params": torch.tensor([w]).double()} for w in (1.0, last**0.5)]
    return LongRun(routine, states, list(losses))


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        (0.5, Verdict.PASS),
        (1.0, Verdict.WARN),
        (1.4, Verdict.WARN),
        (1.6, Verdict.REFUSE),
        (torch.inf, Verdict.REFUSE),
    ],
)
def test_a_loss_that_rises_by_half_is_refused_and_one_that_does_not_fall_is_told(last, verdict):
    """A short twin need not train well, but one that runs away has no useful derivative."""
    found = check_training(run(last))

    assert found.verdict is verdict
    if last < torch.inf:
        assert found.value == pytest.approx(last)
    assert (found.settings == ("training.learning_rate",)) is (verdict is not Verdict.PASS)


def test_a_loss_that_is_no_number_names_its_step():
    """Whatever the last state says."""
    found = check_training(run(0.5, losses=(1.0, torch.nan)))

    assert found.verdict is Verdict.REFUSE
    assert "The training loss is nan in step 1" in found.cause
