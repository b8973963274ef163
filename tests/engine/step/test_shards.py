"""A batch in shards: the gradient that scripts accumulate, in one fixed tree, in both sweeps."""

import pytest
import torch
from torch import nn

import engine
from engine import ExampleWeights, metagradient, sgd
from engine.errors import ConfigurationError
from engine.numerics.summation import tree_sum
from engine.recipes.replay import StepPath
from engine.replay.refusals.first_step import check_unroll
from engine.step.by_name import make_vjp
from engine.step.gradient import batch_in_order, term_gradient
from engine.step.reference import step_vjp
from engine.step.step import plain_step
from engine.step.two_stage import TwoStageVjp
from tests.engine.step.one_step import autograd_vjp, worst_error
from tests.helpers.data import pairs
from tests.helpers.trainings import problems, routines
from tests.helpers.trainings.loops import Loop

SHARDS = 5


def run(**changes):
    return routines.routine(**{"num_steps": 12, "shards": SHARDS, **changes})


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, "a"), (2, "(a+b)"), (5, "(((a+b)+(c+d))+e)"), (7, "(((a+b)+(c+d))+((e+f)+g))")],
)
def test_the_tree_depends_on_the_number_of_parts_alone(number, expected):
    """A rank that makes a block of parts adds it as everybody would."""
    assert tree_sum("abcdefg"[:number], lambda one, other: f"({one}+{other})") == expected


def test_halves_that_are_summed_apart_have_the_bits_of_the_whole():
    """Two ranks with two shards each make the gradient that one makes of four."""
    single = routines.single(shards=4)
    state, z = single.initial_state(), single.point()
    params = state["params"].requires_grad_()
    whole, *_ = batch_in_order(single, state, params, z, 3)

    parts = [term_gradient(single, params, t, z, 3)[0] for t in single.batch_terms(3)]

    assert torch.equal((parts[0] + parts[1]) + (parts[2] + parts[3]), whole)
    assert not torch.equal(((parts[0] + parts[1]) + parts[2]) + parts[3], whole)


def test_every_step_is_that_of_a_loop_that_accumulates():
    """Scripts call backward on pieces of a batch, each divided by the whole batch's size."""
    own = run(optimizer=sgd(0.9, clip_norm=0.3))
    loop = Loop(
        lambda net: [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)],
        before=lambda net, _: nn.utils.clip_grad_norm_(net.parameters(), 0.3),
        pieces=SHARDS,
    )
    batches = [own.order.batch(step) for step in range(12)]
    loop.run(batches, torch.ones(routines.NUM_EXAMPLES).double(), routines.mlp())
    state, errors = own.initial_state(), []

    for step in range(12):
        state, _ = plain_step(own, state, own.point(), step)
        errors.append(float((state["params"] - loop.states[step]).abs().max()))
    assert max(errors) < 1e-13

    v = torch.randn(routines.NUM_EXAMPLES, generator=torch.Generator().manual_seed(1)).double()
    found = float(metagradient(own, routines.output)["weights"] @ v)
    above, below = (loop.run(batches, 1 + h * v, routines.mlp()) for h in (1e-5, -1e-5))
    assert found == pytest.approx((above - below) / 2e-5, rel=1e-6)


def test_shards_are_the_whole_batch_to_rounding():
    """Without dropout, the number of shards says how much memory a step takes, and nothing else."""
    whole, parted = run(shards=1), run()

    first, second = (metagradient(each, routines.output)["weights"] for each in (whole, parted))

    assert float((first - second).norm() / first.norm()) < 1e-12


@pytest.mark.parametrize("kind", problems.kinds())
@pytest.mark.parametrize("optimizer", ["momentum", "with options"])
@pytest.mark.parametrize(
    "vjp",
    [
        lambda: step_vjp,
        lambda: make_vjp("reverse-over-reverse", micro_batch=None),
        lambda: make_vjp("forward-over-reverse"),
    ],
    ids=["reference", "by name", "forward"],
)
def test_the_product_is_autograd_of_the_whole_step(vjp, optimizer, kind):
    """With dropout, injected examples and every kind of z; z is off its point."""
    parted = problems.routine(optimizer, kind, shards=2)
    drawn = torch.Generator().manual_seed(0)

    def noise(row):
        return torch.randn(row.shape, generator=drawn, dtype=row.dtype)

    state = {n: row + 0.1 * noise(row).abs() for n, row in parted.initial_state().items()}
    z = {name: row + 0.2 * noise(row).abs() for name, row in parted.point().items()}
    cotangent = {name: noise(row) for name, row in state.items()}
    step = problems.INJECTION_STEP
    expected = autograd_vjp(parted, state, z, step, cotangent)

    adjoint, shares = vjp()(parted, state, z, step, cotangent)

    found = {**adjoint, **{f"z {name}": share for name, share in shares.items()}}
    both = {**expected[0], **{f"z {name}": expected[1][name] for name in shares}}
    assert worst_error(found, both) < 1e-12


def test_the_gradient_of_the_reverse_sweep_has_the_bits_of_the_forward_sweep():
    """The same tree in both: a product at another gradient than the run's would be drift."""
    single = routines.single(shards=SHARDS)
    state, z = single.initial_state(), single.point()
    params = state["params"].clone().requires_grad_()
    forward, *_ = batch_in_order(single, state, params, z, 0)

    backward = TwoStageVjp(lambda *_: torch.zeros(()))._gradient(single, state["params"], z, 0)

    assert torch.equal(forward, backward)


def test_memory_is_that_of_a_shard():
    """The point of it: autograd keeps no activation of a whole batch."""
    kept = {}
    for shards in (1, 8):
        large = routines.routine(
            batch_size=960,
            shards=shards,
            num_steps=3,
            examples=routines.examples(960),
            metaparameters={},
        )
        state, z = large.initial_state(), large.point()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            after, _ = plain_step(large, state, z, 0)
            step_vjp(large, state, z, 0, after)
        kept[shards] = max(sizes)

    assert kept[8] * 4 < kept[1]


REFUSED = {
    "more shards than examples": (lambda: run(shards=17), "only 16 examples"),
    "no shard": (lambda: run(shards=0), "at least one"),
    "graphs": (lambda: run(path=StepPath.GRAPH), "never whole"),
    "kept graphs": (lambda: check_unroll(run(), 2), "unroll is 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_shards_that_cannot_be_are_refused(name):
    """With the number, and what stands against it."""
    make, message = REFUSED[name]

    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_coupled_loss_is_refused_by_name():
    """It has pieces of its own, which are exact."""
    with pytest.raises(ConfigurationError, match="use piece"):
        pairs.routine(ExampleWeights(torch.ones(16).double()), shards=2)


def test_a_frozen_batch_normalization_goes_through_in_shards():
    """It normalizes by constants, so nothing couples the examples."""
    net = routines.mlp(lambda: nn.BatchNorm1d(12), nn.GELU)
    net.train()
    net[1].eval()
    parted, whole = run(model=net), run(model=net, shards=1)

    first, second = (metagradient(each, routines.output)["weights"] for each in (parted, whole))

    assert float((first - second).norm() / second.norm()) < 1e-12


@pytest.mark.slow
def test_check_knows_shards():
    """Twins have batches of their own, which must have shards as well."""
    assert engine.check(run(), routines.output).verdict != "refuse"
