"""Metaparameters may be called what a state is called inside: no name of a user's is taken."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine

DRAWN = torch.Generator().manual_seed(3)
X, Y = torch.randn(24, 4, generator=DRAWN).double(), torch.arange(24) % 3


def loss(model, batch, state=None):
    losses = cross_entropy(model(batch[0]), batch[1], reduction="none")
    return losses if state is None else losses * state["scale"]


def routine(name, **more):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 3)).double()
    return engine.Routine(
        net, loss, (X, Y), engine.sgd(0.9), learning_rate=0.1, num_steps=5, batch_size=8,
        metaparameters={name: engine.ExampleWeights(torch.ones(24).double())}, **more,
    )  # fmt: skip


def output(model):
    return loss(model, (X, Y)).mean()


def moved(state, params, batch, step):
    return {"scale": 0.9 * state["scale"]}


@pytest.mark.parametrize("name", ["own", "buffers", "params", "params of the state"])
def test_a_name_of_the_state_changes_no_number(name):
    """With running statistics and a state of one's own, whose vectors have these names."""
    state = {"state": {"scale": torch.ones(()).double()}, "advance": moved}

    found = engine.metagradient(routine(name, **state), output)[name]

    assert torch.equal(found, engine.metagradient(routine("weights", **state), output)["weights"])
