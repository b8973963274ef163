"""Hooks of parameters in runs that accumulate: torch calls them for each piece of a batch."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError, UndifferentiableError, WitnessError
from engine.replay.batched import train_many
from engine.step.reference import step_vjp
from tests.engine.step.one_step import autograd_vjp, worst_error
from tests.strangers.carried import SOUND
from tests.strangers.plain import NUM_EXAMPLES, Variant, by_engine, by_trainings, mlp
from tests.strangers.witnessed import output, routine


def clipped(gradient):
    return gradient.clamp(-0.03, 0.03)


def shrunk(gradient):
    return gradient / (0.2 + gradient.norm())


def written(gradient):
    gradient.mul_(gradient.abs() < 0.05)


def large_alone(gradient):
    return gradient if gradient.norm() > 0.1 else 0.5 * gradient


HOOKS = {
    "clipped": clipped,
    "shrunk by the norm": shrunk,
    "written into": written,
    "by a condition": large_alone,
}


def hooked(net, hook):
    for parameter in net.parameters():
        parameter.register_hook(hook)
    return net


def variant(hook, make=mlp, **changes):
    return Variant(lambda: hooked(make(), hook), **{"shards": 3, "momentum": 0.5, **changes})


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_map_the_gradient_of_each_shard(name):
    """They mapped that of the batch, which another clipping is: in silence."""
    run = variant(HOOKS[name])
    wanted, value = by_trainings(run, 1e-6)

    found, evaluated = by_engine(run)

    assert evaluated == pytest.approx(value, rel=1e-9)
    assert found == pytest.approx(wanted, rel=1e-6)
    assert by_trainings(replace(run, shards=1))[1] != pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"vjp": "forward-over-reverse"}, {"micro_batch": 3}, {"schedule": "store-all"}],
    ids=str,
)
def test_every_way_to_the_product_pulls_through_the_hooks_of_each_shard(options):
    """Parts of a shard need the whole shard's gradient first."""
    run = variant(shrunk)
    wanted, _ = by_engine(run)

    found, _ = by_engine(run, **options)

    assert found == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("options", [{}, {"micro_batch": 3}], ids=str)
def test_hooks_of_shards_beside_buffers_that_move(options):
    """Both go from shard to shard, in an order."""
    moving = SOUND["carried: a queue"]
    run = replace(moving, shards=3, make=lambda: hooked(moving.make(), shrunk))
    wanted, value = by_trainings(run)

    found, evaluated = by_engine(run, **options)

    assert evaluated == pytest.approx(value, rel=1e-9)
    assert found == pytest.approx(wanted, rel=1e-6)


def parted(**changes):
    return routine(hooked(mlp(), shrunk), **{"shards": 3, "optimizer": engine.adamw(), **changes})


def test_product_is_autograd_of_the_whole_step():
    """At a cotangent of no run, with an optimizer whose update is not linear."""
    run, drawn = parted(), torch.Generator().manual_seed(0)
    state, z = run.initial_state(), run.point()
    state = {n: r + 0.1 * torch.rand(r.shape, generator=drawn).to(r) for n, r in state.items()}
    cotangent = {n: torch.randn(r.shape, generator=drawn, dtype=r.dtype) for n, r in state.items()}
    expected, shares = autograd_vjp(run, state, z, 2, cotangent)

    found = step_vjp(run, state, z, 2, cotangent)

    assert worst_error(found[0], expected) < 1e-12
    assert worst_error(found[1], {name: shares[name] for name in found[1]}) < 1e-12


def test_several_outputs_and_runs_go_through_the_hooks_of_each_shard():
    """Cotangents of K outputs, and runs that are trained as one."""
    run = parted()
    first, second = engine.metagradients(run, [output, lambda net: 2 * output(net)])
    points = [{"weights": weight * run.point()["weights"]} for weight in (0.5, 1.0)]

    together = train_many(run, points, together="batched")

    assert torch.allclose(2 * first["weights"], second["weights"], rtol=1e-12)
    for one, other in zip(together, train_many(run, points, together="loop"), strict=True):
        assert worst_error(one, other) < 1e-12


def half(gradient):
    return 0.5 * gradient + 0.5 * gradient.detach()


CUTS = {"detached": lambda gradient: gradient.detach().clamp(-0.03, 0.03), "in part": half}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("places", [slice(None), slice(1)], ids=["all", "one"])
def test_hook_that_cuts_the_graph_is_refused(name, places):
    """With shards it is no part of the update, whose derivative the witness compares."""

    def make():
        net = mlp()
        for parameter in list(net.parameters())[places]:
            parameter.register_hook(CUTS[name])
        return net

    run = Variant(make, shards=3, momentum=0.5)

    with pytest.raises((WitnessError, UndifferentiableError), match="detach"):
        by_engine(run)


def test_injected_examples_beside_them_are_refused():
    """They are in no backward pass of a loop that accumulates."""
    counts = engine.Counts(torch.ones(NUM_EXAMPLES, dtype=torch.float64), 2)

    with pytest.raises(ConfigurationError, match="'counts' injects examples, and hooks"):
        parted(metaparameters={"counts": counts})

    assert parted(shards=1, metaparameters={"counts": counts})
    assert routine(nn.Sequential(mlp()), shards=3, metaparameters={"counts": counts})
