"""The adjoint that a run is reversed with: of all that an output reads of the state."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.numerics.determinism import deterministic
from engine.replay.seeding import seed_adjoint


@pytest.fixture
def routine():
    torch.manual_seed(0)
    inputs, labels = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))
    layers = [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 3)]
    return engine.Routine(
        nn.Sequential(*layers).double(),
        lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
        (inputs, labels),
        engine.sgd(0.9),
        learning_rate=0.1,
        num_steps=6,
        batch_size=10,
        metaparameters={"w": engine.ExampleWeights(torch.ones(40).double())},
    )


def spread(model):
    """What the running statistics of a run say, and no parameter at its end."""
    return model[1].running_var.sum() + model[1].running_mean.square().sum()


def test_an_output_of_running_statistics_alone_has_its_metagradient(routine):
    """They are moved by the parameters of all steps, and so is the output."""
    along = torch.linspace(-1, 1, 40).double()

    found = engine.metagradient(routine, spread)["w"] @ along

    expected = engine.central_difference(routine, spread, {"w": along})
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_whoever_looks_at_an_output_sees_it_with_its_graph(routine):
    """The checks before a run evaluate each output once, and not once more for its adjoint."""
    seen = []
    with deterministic():
        value, _ = seed_adjoint(routine, routine.initial_state(), spread, seen.append)

    assert [float(each) for each in seen] == [float(value)]
    assert seen[0].requires_grad
