"""Hooks of parameters that draw noise: each step, shard and parameter has a seed of its own.

The reference is a plain loop that calls the hook by itself, seeded by hand, and takes a central
difference of two trainings.
"""

import pytest
import torch
from torch.nn import functional

import engine
from engine.errors import ConfigurationError, WitnessError
from engine.numerics.determinism import seed_for
from engine.replay.batched import train_many
from engine.routine.batch_order import Order
from engine.routine.module import gradient_hooks
from tests.strangers.plain import (
    BATCH,
    NUM_EXAMPLES,
    Variant,
    by_engine,
    direction,
    mlp,
)
from tests.strangers.witnessed import output, routine


def clipped_with_noise(gradient):
    clipped = gradient * (0.5 / gradient.norm()).clamp(max=1)
    return clipped + 0.05 * torch.randn_like(gradient)


def dropped(gradient):
    return functional.dropout(gradient, 0.5)


def scaled(gradient):
    return gradient * torch.rand((), dtype=gradient.dtype)


def noisy(hook):
    net = mlp()
    for parameter in net.parameters():
        parameter.register_hook(hook)
    return net


def by_hand(run, hook, distance=1e-5):
    """Return the derivative along the direction, and phi, from three loops of their own."""

    def phi(shift):
        net, own, held_out, (inputs, labels) = run.parts()
        weights, named = 1 + shift * direction(), dict(net.named_parameters())
        for parameter in named.values():
            parameter._backward_hooks.clear()
        optimizer = torch.optim.SGD(named.values(), lr=run.rate, momentum=run.momentum)
        order = Order(torch.ones(NUM_EXAMPLES, dtype=torch.int64), BATCH, 0)
        for step in range(run.steps):
            optimizer.zero_grad()
            for shard, rows in enumerate(order.batch(step).tensor_split(run.shards)):
                total = (weights[rows] * own(net, (inputs[rows], labels[rows]))).sum() / BATCH
                found = torch.autograd.grad(total, [*named.values()])
                for (name, parameter), gradient in zip(named.items(), found, strict=True):
                    torch.manual_seed(seed_for(0, "hook", step, shard, name))
                    mapped, before = hook(gradient.clone()), parameter.grad
                    parameter.grad = mapped if before is None else before + mapped
            optimizer.step()
        with torch.no_grad():
            return float(held_out(net))

    return (phi(distance) - phi(-distance)) / (2 * distance), phi(0.0)


@pytest.mark.parametrize("hook", [clipped_with_noise, dropped, scaled])
@pytest.mark.parametrize("changes", [{}, {"shards": 2}, {"momentum": 0.9, "rate": 0.1}])
def test_noise_is_that_of_the_step(hook, changes):
    """Private training clips and adds noise; a replayed step has to draw the same."""
    run = Variant(lambda: noisy(hook), **changes)
    wanted, value = by_hand(run, hook)

    found, evaluated = by_engine(run)

    assert evaluated == pytest.approx(value, rel=1e-10)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_engine_that_draws_other_noise_is_refused(monkeypatch):
    """The witness seeds the hooks of the module that was handed in by itself."""
    monkeypatch.setattr(gradient_hooks, "seeded", lambda *_, **__: torch.random.fork_rng())

    with pytest.raises((WitnessError, ConfigurationError), match=r"gradient by|two different stat"):
        engine.train(routine(noisy(scaled)))


def test_noise_is_another_one_for_each_seed_step_and_shard():
    """And the generator is given back as it was."""
    run = routine(noisy(scaled), shards=2)
    ones = torch.ones(run.layout.size, dtype=run.layout.dtype)
    before = torch.get_rng_state()

    found = [run.hooked(ones, step, shard) for step in (0, 1) for shard in (0, 1)]

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], run.hooked(ones, 0, 0))
    assert len({float(each[0]) for each in found}) == 4
    assert len({float(each) for each in found[0]}) == len(run.layout.shapes)


@pytest.mark.parametrize("shards", [1, 2])
def test_runs_of_two_seeds_draw_their_own(shards):
    """As one batched run they would draw the same noise, so they are trained one by one."""
    run = routine(noisy(scaled), shards=shards)
    points = [run.point(), run.point()]

    one, other = train_many(run, points, seeds=[0, 1])
    wanted, *_ = train_many(run, points[:1], seeds=[1])

    assert not torch.equal(one["params"], other["params"])
    assert torch.equal(other["params"], wanted["params"])
    with pytest.raises(ConfigurationError, match="random operation"):
        train_many(run, points, seeds=[0, 1], together="batched")


@pytest.mark.parametrize(
    "options", [{"vjp": "forward-over-reverse"}, {"micro_batch": 3}, {"vjp": "compiled"}]
)
@pytest.mark.parametrize("shards", [1, 2])
def test_other_ways_to_the_product_draw_the_same(options, shards, caplog):
    """A compiled product seeds nothing, so it is declined."""
    run = routine(noisy(clipped_with_noise), shards=shards)
    wanted = engine.metagradient(run, output)["weights"]

    found = engine.metagradient(run, output, **options)["weights"]

    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-14)
    if options.get("vjp") == "compiled" and shards == 1:
        assert "draw random numbers" in caplog.text
