"""Running statistics that a step moves by what is out of the graph."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.errors import WitnessError
from tests.strangers.plain import NUM_EXAMPLES, Variant, by_engine, by_trainings, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())


def _net():
    return mlp(nn.BatchNorm1d(10), nn.Tanh())


def _without(net, inputs):
    with torch.no_grad():
        return net(inputs)


def _in_evaluation(net, inputs):
    net.eval()
    found = _without(net, inputs)
    net.train()
    return found


def _guessed(guess):
    def losses(net, batch):
        labels = guess(net, 2 * batch[0]).argmax(1)
        return loss(net, batch) + cross_entropy(net(1.5 * batch[0]), labels, reduction="none")

    return Variant(
        _net, loss=lambda _: losses, output=lambda _: lambda net: loss(net, _HELD).mean()
    )


class _Beside(nn.Module):
    """What is normalized beside what is learned."""

    def __init__(self, stop):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Linear(10, 3)
        self.stop = stop

    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs))
        return self.last(hidden + self.norm(self.stop(hidden)))


@pytest.mark.parametrize(
    ("variant", "what"),
    [
        (_guessed(_without), r"no_grad\(\)"),
        (Variant(lambda: _Beside(torch.Tensor.detach).double()), r"detach\(\)"),
    ],
    ids=["labels guessed without a graph", "a detached input"],
)
def test_they_are_refused_by_line(variant, what):
    """Neither the loss nor its gradients nor their derivatives say anything of it."""
    with pytest.raises(WitnessError, match=rf"by {what} at \S*test_moved_statistics\.py:\d+, so"):
        by_engine(variant)


@pytest.mark.parametrize(
    "variant",
    [
        _guessed(lambda net, inputs: engine.stop_gradient(net(inputs))),
        _guessed(lambda net, inputs: net(inputs).detach()),
        _guessed(_in_evaluation),
        Variant(lambda: _Beside(engine.stop_gradient).double()),
    ],
    ids=["held", "detached afterwards", "in evaluation mode", "a held input"],
)
def test_the_remedies_are_right(variant):
    """The reference trains in place, by torch's own batch normalization."""
    wanted, _ = by_trainings(variant)

    assert by_engine(variant)[0] == pytest.approx(wanted, rel=1e-5)


def _single(net, batch):
    """Only in float32, as kernels that know no other format."""
    if net[0].weight.dtype != torch.float32 or batch[0].dtype != torch.float32:
        raise TypeError("only float32")
    return loss(net, batch)


def in_float32(losses):
    """A run in float32 of a net with batch normalization, and its output."""
    torch.manual_seed(0)
    model = _net().float()
    columns = tuple(c.float() if c.is_floating_point() else c for c in data())
    train, held = ([c[part] for c in columns] for part in (slice(24), slice(24, None)))
    run = engine.Routine(
        model,
        losses,
        tuple(train),
        engine.sgd(),
        learning_rate=0.1,
        num_steps=4,
        batch_size=8,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(24))},
    )
    return run, lambda net: loss(net, held).mean()


def test_what_cannot_be_called_in_float64_is_said_and_not_refused():
    """Nothing was learned of it."""
    found = engine.metagradient(*in_float32(_single))

    assert "running statistics was not compared: only float32" in found.witness.note
    assert "was not compared" not in engine.metagradient(*in_float32(loss)).witness.note
