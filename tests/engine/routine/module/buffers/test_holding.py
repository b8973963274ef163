"""Calls that copy, freeze or train inside, beside plain torch."""

import copy

import pytest
import torch
from torch import nn, optim

import engine
from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.routine.module.buffers.moving import inherit
from engine.routine.module.calls_again import HOLDING
from tests.strangers.frozen_parts import Pair
from tests.strangers.plain import data, loss, mlp
from tests.strangers.witnessed import output, routine


def _losses(run):
    """Return the losses of step 0, and what layers have normalized meanwhile."""
    state = run.initial_state()
    params = state["params"].requires_grad_()
    with deterministic(), run.reading(state) as calls, run.binding.keeping():
        found = run.term_losses(params, next(run.terms(0)), run.point(), 0)
    return found.detach(), len(calls)


def test_a_call_that_is_made_again_draws_the_same_and_normalizes_once():
    """What the first half of the failed call drew and noted does not count."""

    def with_copy(net, batch):
        losses = loss(net, batch)
        copy.deepcopy(net)
        return losses

    def make():
        torch.manual_seed(0)
        return mlp(nn.BatchNorm1d(10), nn.Dropout(0.5))

    run = routine(make(), loss=with_copy)
    found, calls = _losses(run)

    wanted, wanted_calls = _losses(routine(make()))
    assert run.programs[HOLDING]
    assert torch.equal(found, wanted)
    assert calls == wanted_calls == 1


def test_plain_losses_and_attacks_are_called_without_the_mode():
    """Who takes a gradient by the inputs needs no graph of it where a sign is all that is read."""

    def attacked(net, batch):
        inputs = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(net, (inputs, batch[1])).sum(), inputs)
        return loss(net, (batch[0] + 0.1 * slope.sign(), batch[1]))

    for losses in (loss, attacked):
        run = routine(loss=losses)
        engine.metagradient(run, output)
        assert not run.programs.get(HOLDING)


def test_flags_and_leaves_answer_as_in_torch():
    """What the loss is told inside of a run is what it is told outside."""
    told: list[list[object]] = []

    def asks(net, batch):
        net.critic.requires_grad_(False)
        first, frozen = net.maker.weight, net.critic.get_parameter("0.weight")
        other = copy.deepcopy(net)
        answers: list[object] = []
        for each in (first, frozen, other.maker.weight, other.critic[0].weight):
            answers += [each.requires_grad, each.is_leaf, each.grad_fn is None]
        other.requires_grad_(True)
        optimizer = optim.SGD(other.parameters(), lr=0.1)
        loss(other, batch).mean().backward()
        answers += [other.maker.weight.grad is not None, other.maker.weight.grad.requires_grad]
        optimizer.zero_grad()
        answers += [other.maker.weight.grad is None, net.maker.weight.requires_grad]
        net.critic.requires_grad_(True)
        told.append(answers)
        return loss(net, batch)

    net = Pair()
    asks(net, tuple(column[:8] for column in data()))
    _losses(routine(net, loss=asks))

    assert len(told) > 1
    assert all(each == told[0] for each in told[1:])


def test_a_twin_knows_what_calls_of_its_run_do():
    """Its own first call may be made where nobody sees who asks for a gradient."""
    run = routine(loss=lambda net, batch: loss(copy.deepcopy(net), batch) + loss(net, batch))
    _losses(run)
    assert inherit(routine(), run).programs[HOLDING]


@pytest.mark.slow
def test_a_check_passes_and_compiled_steps_are_refused():
    """A loss is also called without a graph by the checks; and dynamo has no such mode."""

    def toward_a_copy(net, batch):
        wanted = copy.deepcopy(net)(batch[0]).detach()
        return loss(net, batch) + (net(0.9 * batch[0]) - wanted).square().mean(1)

    run = routine(loss=toward_a_copy)
    assert engine.check(run, output).verdict in ("pass", "warn")
    with pytest.raises(ConfigurationError, match="use compile=False"):
        engine.metagradient(routine(loss=toward_a_copy, compile=True), output)
