"""Hooks that close over the module, beside a loop that trains the module in place."""

import pytest
import torch
from torch import nn

from engine.routine.module.binding import copied
from tests.strangers.plain import Variant, by_engine, by_trainings, loss, mlp


class _Scaled(nn.Module):
    """A hook of a layer reads a parameter of the net around it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)
        self.scale = nn.Parameter(torch.ones(10))
        self.first.register_forward_hook(lambda module, args, out: out * self.scale)

    def forward(self, inputs):
        return self.last(torch.tanh(self.first(inputs)))


def _keeping():
    net = mlp()
    net.kept = None

    def hook(module, args, out):
        net.kept = out

    net[0].register_forward_hook(hook)
    return net


def _collecting():
    net, found = mlp(), {}
    net.found = found
    net[0].register_forward_hook(lambda module, args, out: found.update(hidden=out))
    return net


def _penalized(read):
    return lambda net, batch: loss(net, batch) + 0.1 * read(net).square().mean(1)


def _before():
    net = _Scaled()
    net.first._forward_hooks.clear()

    def hook(module, args, /, *, by=0.5):
        return (args[0] * (1 + by * net.scale[:6]),)

    net.first.register_forward_pre_hook(hook)
    return net.double()


CASES = {
    "a parameter of the outer module": Variant(lambda: _Scaled().double()),
    "before a layer, with a default": Variant(_before),
    "the outer module, which the loss is given": Variant(
        _keeping, loss=lambda _: _penalized(lambda net: net.kept)
    ),
    "a dictionary of the module": Variant(
        _collecting, loss=lambda _: _penalized(lambda net: net.found["hidden"])
    ),
    "the outer module, which the loss holds too": Variant(
        _keeping, loss=lambda model: _penalized(lambda _: model.kept)
    ),
    "a dictionary that the loss holds too": Variant(
        _collecting, loss=lambda model: _penalized(lambda _, found=model.found: found["hidden"])
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hook_holds_what_the_loss_reads(name):
    """The copy, or what was handed in, where the loss reads it there."""
    wanted, value = by_trainings(CASES[name])

    found, output = by_engine(CASES[name])

    assert output == pytest.approx(value, rel=1e-9)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_hooks_that_were_handed_in_stay_as_they_are():
    """A copy has functions of its own."""
    net = _Scaled()
    hooks = list(net.first._forward_hooks.values())

    duplicate = copied(net)
    again = copied(duplicate)

    assert list(net.first._forward_hooks.values()) == hooks
    for module, other in ((duplicate, net), (again, duplicate)):
        (hook,) = module.first._forward_hooks.values()
        assert hook.__closure__[0].cell_contents is module
        assert hook.__closure__[0].cell_contents is not other
