"""What is made of a step that was run twice and led to other numbers."""

import pytest
import torch

from engine.errors import ConfigurationError, WitnessError
from engine.witness.repeated import refuse_another
from tests.helpers.trainings.routines import routine


@pytest.fixture
def state():
    """A run, and where its first step leads to."""
    run = routine()
    return run, {"params": run.initial_state()["params"].double()}


def off(state, error):
    """Return a state whose numbers are off by a share of theirs."""
    return {name: row * (1 + error) for name, row in state.items()}


def test_step_that_repeats_but_for_the_rounding_of_its_graph_is_taken(state):
    """An LSTM takes another kernel with a graph than without one, on some processors."""
    run, first = state
    second = off(first, 1e-15)
    assert not torch.equal(second["params"], first["params"])

    refuse_another(run, 1, first, second, lambda: off(first, 1e-15))


def test_step_that_repeats_far_from_its_first_run_is_refused(state):
    """As where a counter has run out: it repeats from then on, and was another step before."""
    run, first = state

    with pytest.raises(ConfigurationError, match="run twice"):
        refuse_another(run, 1, first, off(first, 1e-3), lambda: off(first, 1e-3))


def test_step_that_never_repeats_is_refused(state):
    """However small the differences are: they are random numbers, or an order of summation."""
    run, first = state

    with pytest.raises(ConfigurationError, match="run twice"):
        refuse_another(run, 1, first, off(first, 1e-15), lambda: off(first, -1e-14))


def test_step_that_follows_the_handed_in_module_is_told_as_that(state):
    """However little of it: the module holds its own numbers again in the third run."""
    run, first = state

    with pytest.raises(WitnessError, match="handed in"):
        refuse_another(run, 1, first, off(first, 1e-15), lambda: dict(first))
