"""Errors of the user's own code, told as what they are."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError
from tests.strangers.plain import loss, mlp
from tests.strangers.witnessed import output, routine


def _collecting(holder):
    """Return a net whose hook writes into the net itself, or into the layer that it is given."""
    net = mlp(nn.GELU(), nn.BatchNorm1d(10))
    net.found = {}
    net[1].register_forward_hook(lambda layer, _, hidden: holder(net, layer, hidden))
    return net


def test_a_hook_that_holds_the_module_itself_is_told_that_the_run_trains_a_copy():
    """The loss reads the copy, and the hook has written beside it; the user's net is left alone."""
    held = []
    model = _collecting(lambda *given: held[0].found.update(hidden=given[-1]))
    held.append(model)
    read = lambda net, batch: loss(net, batch) + net.found["hidden"].square().mean(1)  # noqa: E731
    before = model[2].running_mean.clone()

    with pytest.raises(ConfigurationError, match="of which the run trains a copy"):
        engine.metagradient(routine(model, loss=read), output)

    assert torch.equal(model[2].running_mean, before)


def test_what_fails_everywhere_is_told_as_before():
    """A wrong key is no matter of copies."""
    model = _collecting(lambda *_: None)
    read = lambda net, batch: loss(net, batch) + net.found["hidden"].square().mean(1)  # noqa: E731

    with pytest.raises(ConfigurationError, match="A loss is called as loss"):
        engine.metagradient(routine(model, loss=read), output)


def test_a_call_that_fails_once_and_goes_well_again_is_one_message():
    """What fails in one call of several left a traceback: a retry of it found nothing."""
    calls = []

    def now_and_then(model, batch):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("not yet")
        return loss(model, batch)

    with pytest.raises(
        ConfigurationError, match=r"goes well when it is made again .*not yet.*line \d+"
    ):
        engine.metagradient(routine(loss=now_and_then), output)
