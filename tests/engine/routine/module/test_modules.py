"""Modules that cannot be trained as they are, refused when a run is made."""

from unittest import mock

import pytest
import torch
from torch import distributed, nn

import engine
from engine.errors import ConfigurationError
from tests.strangers.plain import loss, mlp
from tests.strangers.witnessed import output, routine


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


@pytest.fixture
def _one_process():
    """A group of one process, as torchrun makes on one GPU."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_data_parallel_of_one_process_is_what_it_wraps():
    """Its names stay, for a loss that asks for the module inside."""
    net = mlp()
    wrapped = nn.parallel.DistributedDataParallel(net)

    def own(model, batch):
        return loss(model, batch) + 0.01 * model.module[0].weight.square().sum()

    found = engine.metagradient(routine(wrapped, loss=own), output)["weights"]

    inner = routine(
        net, loss=lambda model, batch: loss(model, batch) + 0.01 * model[0].weight.square().sum()
    )
    assert torch.equal(found, engine.metagradient(inner, output)["weights"])


@pytest.mark.usefixtures("_one_process")
def test_data_parallel_of_several_processes_is_refused():
    """A run is one process, which has all of the examples."""
    wrapped = nn.parallel.DistributedDataParallel(mlp())

    with (
        mock.patch.object(distributed, "get_world_size", return_value=2),
        pytest.raises(ConfigurationError, match=r"model\.module, with all of the examples"),
    ):
        routine(wrapped)
