"""Which parameters the loss reads: a step that is run anyway says what a gradient says."""

import pytest
import torch
from torch import nn

from engine import ExampleWeights, Routine, sgd
from engine.numerics.determinism import deterministic
from engine.replay.refusals.parameters_read import ParametersRead, find_reads, noting_reads
from engine.step.step import open_step, plain_step


class Experts(nn.Module):
    """One layer that is used, one that is called for nothing, one that is not called."""

    def __init__(self):
        super().__init__()
        self.used, self.spare, self.idle = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, inputs):  # noqa: D102 (a module)
        self.spare(inputs)
        return self.used(inputs)


@pytest.fixture
def routine():
    torch.manual_seed(0)
    inputs = torch.randn(8, 3)
    return Routine(
        Experts(),
        lambda model, batch: model(batch[0]).square().sum(dim=1),
        (inputs,),
        sgd(0.9),
        learning_rate=0.1,
        num_steps=2,
        batch_size=4,
        metaparameters={"w": ExampleWeights(torch.ones(8))},
    )


def by_gradient(routine, state, reads):
    find_reads(routine, state["params"], reads)


def by_step(routine, state, reads):
    with noting_reads(routine, reads, state["params"]):
        plain_step(routine, state, routine.point(), 0)


def by_graph(routine, state, reads):
    """The second derivative runs the same nodes, and is no use of a parameter."""
    with noting_reads(routine, reads, state["params"]):
        graph = open_step(routine, state, routine.point(), 0)
    graph.pull({name: torch.ones_like(row) for name, row in state.items()})


@pytest.mark.parametrize("look", [by_gradient, by_step, by_graph])
def test_a_step_says_what_its_loss_reads(routine, look):
    """Parameters of a layer that was called and left out are another fault than idle ones."""
    reads = ParametersRead()
    with deterministic():
        look(routine, routine.initial_state(), reads)

    assert reads.unused == ["spare.weight", "spare.bias"]
    assert reads.idle == ["idle.weight", "idle.bias"]
