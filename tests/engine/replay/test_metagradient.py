"""The metagradient against two oracles, for every schedule, optimizer and kind."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from engine import MeanLoss, central_difference, metagradient, whole_run_gradient
from engine.errors import (
    ConfigurationError,
    NonFiniteError,
    ReplayMismatchError,
    UndifferentiableError,
)
from engine.recipes.replay import StepPath
from engine.replay import borders
from engine.replay.interpreter import Sweep, replay
from engine.routine.optimizers import Optimizer, adam, sgd
from engine.schedules.trees import Forward, Tier
from engine.storage.states import MemoryStates, RowStore
from tests.helpers.trainings import problems

SCHEDULES = [
    {"schedule": "k-ary", "arity": 2},
    {"schedule": "k-ary", "arity": 3},
    {"schedule": "k-ary", "arity": 4},
    {"schedule": "k-ary", "arity": 100},
    {"schedule": "store-all"},
    {"schedule": "sqrt"},
    {"schedule": "binomial"},
    {"schedule": "binomial", "num_slots": 1},
    {"schedule": "binomial", "num_slots": 3},
    {"schedule": "two-level", "num_slots": 1},
    {"schedule": "two-level", "num_slots": 2, "slow_slots": 1, "slow_cost": 0.1},
    {"schedule": "k-ary", "arity": 2, "unroll": 2},
    {"schedule": "binomial", "num_slots": 2, "unroll": 3},
    {"schedule": "two-level", "num_slots": 1, "unroll": 2},
    {"schedule": "store-all", "unroll": 9},
]


def shown(options):
    return " ".join(map(str, options.values()))


def normalized_net():
    """Group normalization has another backward formula where a graph is wanted."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Linear(4, 8), nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(),
            nn.Linear(8, 3),
        ).double()  # fmt: skip


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def direction_for(routine, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=drawn, dtype=tensor.dtype)
        for name, tensor in routine.point().items()
    }


@cache
def by_autograd(optimizer, kind):
    """Return the output and the gradient of plain autograd, which several tests compare with."""
    return whole_run_gradient(problems.routine(optimizer, kind), problems.output)


@cache
def by_replay(optimizer, kind, **options):
    """Return the engine's own result, which several tests compare with and none changes."""
    return metagradient(problems.routine(optimizer, kind), problems.output, **options)


@pytest.mark.parametrize("kind", problems.kinds())
@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_metagradient_equals_backpropagation_through_the_whole_run(optimizer, kind):
    """Plain autograd through all steps knows no schedule, no checkpoint and no step-wise product.

    1e-12: both are float64 and differ only in the order of sums over 9 steps.
    """
    value, expected = by_autograd(optimizer, kind)

    found = by_replay(optimizer, kind)

    assert found.gradient.keys() == expected.keys()
    assert found.output == pytest.approx(float(value), rel=1e-14)
    assert max(relative_error(found[name], expected[name]) for name in expected) < 1e-12


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("options", SCHEDULES, ids=shown)
def test_schedule_decides_cost_and_never_a_bit_of_the_answer(options, optimizer):
    """States are made again bit by bit, so every schedule gives the same bits, for all kinds."""
    routine = problems.routine(optimizer, "all")
    expected = by_replay(optimizer, "all", schedule="k-ary", arity=5)

    found = metagradient(routine, problems.output, witness=False, **options)

    assert all(torch.equal(found[name], expected[name]) for name in expected.gradient)
    assert torch.equal(found.losses, expected.losses)


@pytest.mark.parametrize("kind", problems.kinds())
@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_unrolled_steps_give_the_gradient_of_the_whole_run(optimizer, kind):
    """A graph that is used with another adjoint, or in the wrong order, is wrong without an error.

    1e-12: both are float64 and differ only in the order of sums over 9 steps.
    """
    routine = problems.routine(optimizer, kind)
    _, expected = by_autograd(optimizer, kind)

    found = metagradient(routine, problems.output, schedule="sqrt", unroll=3, witness=False)

    assert max(relative_error(found[name], expected[name]) for name in expected) < 1e-12


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_unrolled_steps_of_the_graph_path_give_the_gradient_of_the_whole_run(optimizer):
    """With the path of graphs in both sweeps, also where torch has another formula for it."""
    routine = problems.routine(optimizer, "mixture", model=normalized_net(), path=StepPath.GRAPH)
    _, expected = whole_run_gradient(routine, problems.output)

    found = metagradient(routine, problems.output, schedule="binomial", num_slots=2, unroll=3)

    again = metagradient(routine, problems.output)
    assert max(relative_error(found[name], expected[name]) for name in expected) < 1e-12
    assert all(torch.equal(found[name], again[name]) for name in expected)


def test_unroll_on_the_plain_path_is_refused_where_graphs_make_other_bits():
    """A state that is off by 1e-17 is off the trajectory; the message names both ways out."""
    routine = problems.routine("adamw", "weights", model=normalized_net())

    with pytest.raises(ConfigurationError, match=r"'params'.*path=.graph.*unroll=1"):
        metagradient(routine, problems.output, unroll=3)


def test_unroll_and_a_product_without_whole_graphs_are_refused_together():
    """A setting that would be ignored is not accepted."""
    with pytest.raises(ConfigurationError, match=r"unroll is 2.*micro_batch is 3"):
        metagradient(problems.routine(), problems.output, unroll=2, micro_batch=3)


@pytest.mark.parametrize("kind", problems.kinds())
@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_metagradient_agrees_with_central_differences(optimizer, kind):
    """An oracle without second derivatives: nudge z along a random direction, train again.

    At h = 1e-6 rounding (eps / h) is near 1e-10 of the output, which is 1e-6 of derivatives near
    1e-4. Truncation is far below that, except at 1e-5 and with Adam's first step, whose third
    derivative by the initial parameters is of order 1 / eps_root.
    """
    routine = problems.routine(optimizer, kind)
    direction = direction_for(routine)
    found = by_replay(optimizer, kind)

    estimate = central_difference(routine, problems.output, direction, step_size=1e-6)

    along = sum(float((found[name] * direction[name]).sum()) for name in direction)
    assert along == pytest.approx(estimate, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"arity": 2}, {"schedule": "two-level", "num_slots": 1, "slow_cost": 0.5}],
    ids=shown,
)
def test_metagradient_is_the_same_from_a_store(options, tmp_path):
    """A state that went through zarr must come back with every bit, moments included."""
    routine = problems.routine("adamw", "all")
    expected = metagradient(routine, problems.output, arity=2)

    found = metagradient(routine, problems.output, store=str(tmp_path / "states"), **options)

    assert all(torch.equal(found[name], expected[name]) for name in expected.gradient)
    assert RowStore.open(str(tmp_path / "states")).steps() == []


def test_float32_agrees_with_float64_to_its_precision():
    """float32 is what people train in: 1e-4 is a thousand of its roundings."""
    double = problems.routine("momentum", "weights")
    single = problems.routine(
        "momentum",
        "weights",
        model=problems.model().float(),
        examples=(problems.examples()[0].float(), problems.examples()[1]),
    )
    inputs, labels = problems.examples(7, seed=1)

    found = metagradient(single, MeanLoss(problems.loss, (inputs.float(), labels)))["weights"]

    expected = metagradient(double, problems.output)["weights"]
    assert relative_error(found.double(), expected) < 1e-4


def test_output_in_parts_is_the_output_as_one():
    """Chunks bound the memory of a large objective split; they must not change the mean."""
    routine = problems.routine()
    batch = problems.examples(7, seed=1)

    found = metagradient(routine, MeanLoss(problems.loss, batch, chunk=3))

    expected = metagradient(routine, problems.output)
    assert found.output == pytest.approx(expected.output, rel=1e-14)
    assert relative_error(found["weights"], expected["weights"]) < 1e-13


def test_counts_at_zero_train_the_real_run():
    """The surrogate of Algorithm 1 at z = 0 is the run itself, to the bit."""
    counted = problems.routine("adamw", "counts")
    plain = problems.routine("adamw", "counts", num_steps=problems.NUM_STEPS)
    states = MemoryStates()

    sweep = replay(
        [Forward(0, plain.num_steps)],
        plain,
        {"counts": torch.zeros(problems.NUM_EXAMPLES, dtype=torch.float64)},
        {Tier.MEMORY: states},
        Sweep(state=plain.initial_state()),
    )

    assert torch.equal(
        metagradient(counted, problems.output).state["params"], sweep.state["params"]
    )


def test_candidate_with_count_zero_has_a_metagradient():
    """Algorithm 1 must be able to take a dropped example back, so it needs its derivative too."""
    found = metagradient(problems.routine("momentum", "counts"), problems.output)["counts"]

    assert problems.kinds()["counts"]["counts"].value[1] == 0
    assert found[1] != 0


def test_injection_in_chunks_is_the_injection_as_one(monkeypatch):
    """60,000 candidates are injected in chunks; without dropout the chunks must not matter."""
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    routine = problems.routine("adamw", "counts", model=net)
    expected = metagradient(routine, problems.output)["counts"]

    monkeypatch.setattr("engine.routine.routine.INJECTION_CHUNK", 5)
    found = metagradient(routine, problems.output)["counts"]

    assert relative_error(found, expected) < 1e-12


def test_adjoint_includes_the_optimizers_moments():
    """A public trainer lost the moments on load: final parameters right, metagradient wrong."""
    routine = problems.routine("adamw", "weights")

    class Forgetful(MemoryStates):
        def load(self, step):
            state = super().load(step)
            return {**state, "exp_avg": torch.zeros_like(state["exp_avg"])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.replay.metagradient.MemoryStates", Forgetful)
        with pytest.raises(ReplayMismatchError, match=r"Step \d+, replayed, made another state"):
            metagradient(routine, problems.output)


def test_optimizer_that_detaches_its_gradient_is_refused():
    """A detached term gives a metagradient that plots nicely and is wrong."""
    plain = sgd()

    def update(state, gradient, hyper, step):
        return plain.update(state, gradient.detach(), hyper, step)

    detached = Optimizer("detached", plain.hyperparameters, plain.init, update)
    routine = replace(problems.routine("sgd"), optimizer=detached)

    with pytest.raises(UndifferentiableError, match="'detached'.*the gradient.*detach"):
        metagradient(routine, problems.output)


@pytest.mark.parametrize("vjp", ["reverse-over-reverse", "forward-over-reverse"])
def test_adam_without_eps_root_is_exact_where_no_gradient_comes(vjp):
    """Torch's own Adam, and weights that no example reaches: no NaN, and the derivative is right.

    No input is anything but 0, so the first layer's weights never move; its biases do.
    """
    dark = (torch.zeros(12, 4, dtype=torch.float64), problems.examples()[1])
    bare = replace(problems.routine("adam", examples=dark), optimizer=adam(eps=1e-3, eps_root=0.0))
    direction = direction_for(bare)

    found = metagradient(bare, problems.output, vjp=vjp)

    along = sum(float((found[name] * direction[name]).sum()) for name in direction)
    estimate = central_difference(bare, problems.output, direction, step_size=1e-6)
    assert abs(estimate) > 1e-5
    assert along == pytest.approx(estimate, rel=1e-5)


def test_diverging_run_names_the_step():
    """A loss that becomes NaN stops the run, with the step and what to try."""
    routine = problems.routine("sgd", learning_rate=[0.05] * 4 + [1e200] + [0.05] * 4)

    with pytest.raises(NonFiniteError, match=r"in step 5.*learning_rate"):
        metagradient(routine, problems.output)


@pytest.mark.parametrize(("schedule", "least", "most"), [("store-all", 0, 0), ("sqrt", 2, 4)])
def test_only_replayed_borders_are_compared(monkeypatch, schedule, least, most):
    """A comparison is a plain step: where every state is kept it would be a quarter more work."""
    compared = []
    compare = borders.refuse_difference
    monkeypatch.setattr(
        borders, "refuse_difference", lambda *a: compared.append(a[1]) or compare(*a)
    )
    routine = problems.routine()

    metagradient(routine, problems.output, schedule=schedule)

    assert least <= len(compared) <= most
