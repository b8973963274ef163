"""A state of one's own: teachers, hidden states and codebooks, beside loops that move them."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import engine
from engine import ExampleWeights, metagradient, sgd
from engine.errors import ConfigurationError, WitnessError
from engine.metaparameters.initial_parameters import InitialParameters
from engine.replay.batched import train_many
from engine.replay.plain_training import evaluate, train_unchecked
from engine.routine.own_state import OWN
from engine.step.step import plain_step
from tests.engine.routine.own_states import (
    RATE,
    STEPS,
    codebook,
    codebook_loop,
    follow,
    hidden,
    hidden_loop,
    mean_teacher,
    of_carried,
    of_quantized,
    of_teacher,
    run,
    teacher_loop,
    weights,
)
from tests.helpers.trainings import routines

CASES: dict[str, tuple[Callable, Callable, Callable]] = {
    "mean teacher": (mean_teacher, teacher_loop, of_teacher),
    "hidden state": (hidden, hidden_loop, of_carried),
    "codebook": (codebook, codebook_loop, of_quantized),
}


@pytest.mark.parametrize("name", CASES)
def test_every_step_and_the_metagradient_are_those_of_a_loop(name):
    """The state moves as a script moves it, and what it passes on from step to step is counted."""
    make, loop, output = CASES[name]
    own = make()
    batches = [own.order.batch(step) for step in range(STEPS)]
    seen, value = loop(batches, weights())
    state = own.initial_state()

    for step in range(STEPS):
        state, _ = plain_step(own, state, own.point(), step)
        assert float((state[OWN] - seen[step]).abs().max()) < 1e-13
    assert float(evaluate(own, state, output)) == pytest.approx(value, rel=1e-12)

    found = metagradient(own, output, schedule="k-ary", arity=2)
    v = torch.randn(routines.NUM_EXAMPLES, generator=torch.Generator().manual_seed(1)).double()
    above, below = (loop(batches, weights() + h * v)[1] for h in (1e-5, -1e-5))
    assert float(found["weights"] @ v) == pytest.approx((above - below) / 2e-5, rel=1e-6)
    assert "not compared" not in found.witness.sentence


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "store-all"},
        {"unroll": 3},
        {"vjp": "forward-over-reverse"},
        {"vjp": "compiled"},
    ],
    ids=str,
)
def test_every_way_to_reverse_carries_the_state(name, options):
    """Or takes the reference's way, with the same answer."""
    make, _, output = CASES[name]
    own = make()
    expected = engine.whole_run_gradient(own, output)[1]["weights"]

    found = metagradient(own, output, **options)["weights"]

    assert float((found - expected).norm() / expected.norm()) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_preflight_knows_the_state(name):
    """Its twins, in float64 and shorter, keep and move it too."""
    make, _, output = CASES[name]

    report = engine.check(make(), output)

    assert report.verdict != "refuse", report


def test_several_outputs_share_a_sweep():
    """Cotangents of the own state have one row for each output."""
    own = mean_teacher()

    found = engine.metagradients(own, [of_teacher, routines.output])

    for one, output in zip(found, (of_teacher, routines.output), strict=True):
        expected = metagradient(own, output)["weights"]
        assert float((one["weights"] - expected).norm() / expected.norm()) < 1e-12


def test_a_state_that_starts_from_the_parameters_passes_their_derivative_on():
    """A teacher that begins as the student depends on the initial parameters."""
    params = torch.cat([p.detach().reshape(-1) for p in routines.mlp().parameters()])
    own = mean_teacher(
        state={"teacher": lambda params: {n: 0.9 * p for n, p in params.items()}},
        metaparameters={"start": InitialParameters(params)},
    )
    v = torch.randn(len(params), generator=torch.Generator().manual_seed(1)).double()

    found = metagradient(own, of_teacher)["start"]

    expected = engine.central_difference(own, of_teacher, {"start": v})
    assert float(found @ v) == pytest.approx(expected, rel=1e-7)


def test_it_is_stored_with_the_rest(tmp_path):
    """Rows of a store have it, and a replay starts from it."""
    own = hidden()
    expected = metagradient(own, of_carried)["weights"]

    found = metagradient(own, of_carried, store=str(tmp_path / "store"), schedule="k-ary")

    assert torch.equal(found["weights"], expected)


def test_runs_with_it_are_trained_one_by_one():
    """A batched run would have one state for all."""
    own = mean_teacher()
    points = [own.point(), {"weights": 2 * weights()}]

    states = train_many(own, points)

    assert torch.equal(states[1][OWN], train_unchecked(own, points[1])[OWN])


def cut(state, params, batch, step):
    return {
        "teacher": {n: t.detach() for n, t in follow(state, params, batch, step)["teacher"].items()}
    }


def leaking():
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    return lambda state, params, batch, step: {
        "teacher": {n: t * weight.sum() / 3 for n, t in state["teacher"].items()}
    }


REFUSED = {
    "no advance": (lambda: mean_teacher(advance=None), ConfigurationError, "Hand in both"),
    "no state": (lambda: mean_teacher(state=None), ConfigurationError, "Hand in both"),
    "a number": (
        lambda: mean_teacher(state={"teacher": 3.0}),
        ConfigurationError,
        "is a float. Keep tensors",
    ),
    "whole numbers": (
        lambda: mean_teacher(state={"count": torch.zeros(3, dtype=torch.int64)}),
        ConfigurationError,
        r"state\['count'\].long\(\)",
    ),
    "other names": (
        lambda: train_unchecked(
            mean_teacher(advance=lambda state, params, batch, step: {"student": params})
        ),
        ConfigurationError,
        "Return the same names and shapes",
    ),
    "cut": (
        lambda: metagradient(mean_teacher(advance=cut), of_teacher),
        WitnessError,
        "a part of it is cut out of the graph",
    ),
    "a leak": (
        lambda: metagradient(mean_teacher(advance=leaking()), of_teacher),
        WitnessError,
        "would stay as it is during the whole run",
    ),
    "in shards": (lambda: mean_teacher(shards=2), ConfigurationError, "leave shards out"),
    "compiled": (lambda: mean_teacher(compile=True), ConfigurationError, "leave compile out"),
    "micro-batches": (
        lambda: metagradient(mean_teacher(), of_teacher, micro_batch=4),
        ConfigurationError,
        "Leave micro_batch out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_would_be_lost_is_refused(name):
    """Each of these would otherwise give a number that is not the run's."""
    make, kind, message = REFUSED[name]

    with pytest.raises(kind, match=message):
        make()


def test_the_model_comes_back_with_its_statistics():
    """What a script saves: parameters, running statistics and counts of a loop's own module."""
    net = routines.mlp(lambda: nn.BatchNorm1d(12), nn.GELU)
    own = run(model=net, metaparameters={"weights": ExampleWeights(weights())})
    theirs = copy.deepcopy(net).train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=RATE, momentum=0.9)
    inputs, labels = routines.examples()
    for step in range(STEPS):
        batch = own.order.batch(step)
        optimizer.zero_grad()
        routines.loss(theirs, (inputs[batch], labels[batch])).mean().backward()
        optimizer.step()

    found = own.model_at(train_unchecked(own))

    assert not found.training
    assert found.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert float((found.state_dict()[name] - value).abs().max()) < 1e-13, name
    assert all(
        torch.equal(p, q) for p, q in zip(net.parameters(), own.given.parameters(), strict=True)
    )


def test_the_model_that_comes_back_is_the_average_where_one_is_evaluated():
    """Its output is the one that the metagradient is of."""
    own = run(optimizer=engine.averaged(sgd(0.9), 0.8))
    state = train_unchecked(own)

    found = own.model_at(state)

    assert float(routines.output(found)) == float(evaluate(own, state, routines.output))
    assert float(routines.output(found)) != float(
        evaluate(own, {**state, "average": state["params"]}, routines.output)
    )
