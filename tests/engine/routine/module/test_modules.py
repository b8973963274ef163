"""Modules that cannot be trained as they are, refused when a run is made."""

import pytest
from torch import nn

from engine.errors import ConfigurationError
from tests.strangers.plain import mlp
from tests.strangers.witnessed import routine


class Selecting(nn.Module):
    """A model whose ``parameters()`` says what an optimizer should be given."""

    def __init__(self, yielded):
        super().__init__()
        self.body, self.head, self.yielded = mlp(), nn.Linear(3, 3).double(), yielded

    def parameters(self, recurse=True):
        """Yield what somebody wants to be trained."""
        return self.yielded(self)

    def forward(self, inputs):
        """Call both."""
        return self.head(self.body(inputs))


REFUSED = {
    "a part": (lambda net: net.head.parameters(), r"leaves out 'body\.0\.weight'.* and others"),
    "groups": (lambda net: iter([{"params": list(net.head.parameters())}]), "yields no tensors"),
    "nothing": (lambda net: net.absent, "fails when it is called .*absent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parameters_of_ones_own_are_all_that_is_trained(name):
    """An optimizer of torch is given parameters(); all that have a gradient were trained here."""
    yielded, words = REFUSED[name]

    with pytest.raises(ConfigurationError, match=words):
        routine(Selecting(yielded)).initial_state()


def test_parameters_of_ones_own_in_another_order_are_fine():
    """All of them are there."""
    net = Selecting(lambda each: iter([*each.head.parameters(), *each.body.parameters()]))

    assert routine(net).layout.size > 0


def test_parts_that_are_frozen_may_be_left_out():
    """Nobody trains them."""
    net = Selecting(lambda each: each.head.parameters())
    net.body.requires_grad_(False)

    assert routine(net).layout.size == 12
