"""Growth of the adjoint: what it is on runs whose answer is known, and when the alarm sounds."""

import pytest
import torch
from torch import nn

from engine import ExampleWeights, Routine, metagradient
from engine.preflight.growth import GROWTH_LIMIT, WINDOW, growth_per_step
from engine.routine.optimizers import sgd
from engine.stages.monitoring import Monitored, alarm

CURVATURES = (1.0, 0.3)


def quadratic(rate, num_steps=40):
    """Gradient descent on a parabola: backwards each coordinate is multiplied by 1 - r H."""
    scales = torch.tensor(CURVATURES, dtype=torch.float64).sqrt()
    inputs = torch.diag(scales) * 2**0.5
    targets = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    return Routine(
        nn.Linear(2, 1, bias=False).double(),
        lambda model, batch: 0.5 * (model(batch[0]) - batch[1]).square().sum(1),
        (inputs, targets),
        sgd(),
        learning_rate=rate,
        num_steps=num_steps,
        batch_size=2,
        metaparameters={"weights": ExampleWeights(torch.ones(2).double())},
    )


def output(model):
    return (model.weight**2).sum() + model.weight.sum()


@pytest.mark.parametrize("rate", [1.9, 2.1, 2.5])
def test_growth_is_that_of_the_largest_factor_and_sounds_the_alarm(rate):
    """Where rate times curvature passes 2 the factor passes 1; well beyond, the alarm sounds."""
    found = metagradient(quadratic(rate), output, schedule="store-all")

    growth = growth_per_step(found.adjoint_norms)

    factors = [abs(1 - rate * curvature) for curvature in CURVATURES]
    said = alarm([1.0, growth])
    assert growth == pytest.approx(max(factors), rel=0.02)
    assert (growth > 1) == (rate * max(CURVATURES) > 2)
    assert (said is not None) == (growth > GROWTH_LIMIT)
    if rate == 2.5:
        assert said is not None
        assert "outer step 1" in said
        assert f"{growth:.2f}-fold" in said
        assert "learning rate times the curvature of the loss passes 2" in said
        assert "training.learning_rate" in said


def test_a_single_step_that_overshoots_is_no_alarm():
    """One bad batch multiplies the adjoint tenfold, once; it does not make a run chaotic."""
    norms = {step: (10.0 if step < 30 else 1.0) for step in range(61)}

    assert growth_per_step(norms) < GROWTH_LIMIT


def test_growth_over_a_part_of_a_long_run_is_found():
    """Training may be chaotic at its highest rate alone: the fastest window counts."""
    norms, value = {}, 1.0
    for step in reversed(range(200)):
        value *= 1.4 if 100 <= step < 100 + WINDOW + 1 else 0.99
        norms[step] = value

    assert growth_per_step(norms) == pytest.approx(1.4, rel=0.01)


@pytest.mark.parametrize(
    "norms", [{}, {3: 1.0}, {0: 0.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: float("inf"), 2: float("nan")}]
)
def test_where_nothing_can_be_measured_there_is_no_growth(norms):
    """An adjoint that is not finite is another check's."""
    assert growth_per_step(norms) == 1.0


def test_growth_of_a_sweep_is_that_of_its_parameters():
    """Moments of an optimizer swing by themselves; the parts of the parameters are summed."""
    layers = {step: [3.0 * 1.5 ** (20 - step), 4.0 * 1.5 ** (20 - step)] for step in range(21)}

    sweep = Monitored(adjoint={step: 1.0 for step in layers}, layers=layers, shares={})

    assert sweep.growth == pytest.approx(1.5)
