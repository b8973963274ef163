"""Kinds of metaparameters: where they enter, and where they may lie."""

import math

import numpy as np
import pytest
import torch

from engine.errors import ConfigurationError
from engine.metaparameters import Counts, ExampleWeights, LearningRatePoints, Metaparameter

KINDS = [ExampleWeights, Counts, LearningRatePoints]


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "moved", "feasible"),
    [
        (ExampleWeights(vector(1, 1)), vector(-0.5, 0.3), vector(0, 0.3)),
        (Counts(vector(1, 1, 1)), vector(-1, 0.6, 2.2), vector(0, 1, 2)),
        (
            LearningRatePoints(vector(-3, -3), bounds=(1e-3, 1.0)),
            vector(-20, 5),
            vector(math.log(1e-3), 0),
        ),
    ],
    ids=["weights", "counts", "learning-rate"],
)
def test_a_move_ends_at_the_closest_feasible_value(kind, moved, feasible):
    """An outer step knows nothing of signs and whole numbers; training does."""
    assert torch.equal(kind.with_value(moved).value, feasible)


def test_with_value_keeps_everything_else_and_leaves_the_original():
    """The injection step belongs to the set-up; an iterate moves the counts alone."""
    counts = Counts(vector(1, 1), injection_step=7)

    moved = counts.with_value(vector(0, 2))

    assert moved.injection_step == 7
    assert counts.value.tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_refused(kind, value):
    """A NaN in z makes every loss NaN hours later; the usual cause is named here."""
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}.*not finite.*step_size"):
        kind(vector(1, value))


def test_kind_without_answers_enters_nothing():
    """A kind of one's own that forgets to answer changes nothing, which step_vjp then refuses."""
    kind, z = Metaparameter(vector(1, 2)), vector(1, 2)

    answers = (kind.copies(), kind.weights(z, torch.tensor([0])), kind.injected(z, 0))

    assert answers == (None, None, None)
    assert kind.hyperparameters(z, 0) == {}


def test_weights_are_those_of_the_batch():
    """Example i keeps its weight wherever it stands, and twice if it is drawn twice."""
    z = vector(10, 20, 30)

    weights = ExampleWeights(z).weights(z, torch.tensor([2, 0, 2]))

    assert torch.equal(weights, vector(30, 10, 30))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_counts_are_differentiated_at_zero(dtype):
    """At z = 0 the surrogate is the real run; counts given as integers still need a derivative."""
    point = Counts(torch.ones(3, dtype=dtype)).point()

    assert point.is_floating_point()
    assert torch.equal(point, torch.zeros_like(point))


def test_counts_enter_one_step_only():
    """Algorithm 1 perturbs batch k and no other."""
    counts = Counts(vector(1, 0, 2), injection_step=3)
    z = counts.point()

    entering = [step for step in range(6) if counts.injected(z, step) is not None]

    assert entering == [step for step in range(6) if counts.enters(step)] == [3]
    assert counts.copies().tolist() == [1, 0, 2]


@pytest.mark.parametrize(("num_points", "num_steps"), [(3, 9), (3, 7), (10, 40), (5, 4), (2, 2)])
def test_learning_rate_is_linear_between_its_points(num_points, num_steps):
    """Interpolation by numpy of exp(value) on evenly spaced points is the definition."""
    value = torch.linspace(-3, -5, num_points, dtype=torch.float64).cos()
    kind = LearningRatePoints(value, num_steps=num_steps)
    at = np.linspace(0, num_steps - 1, num_points)
    expected = np.interp(np.arange(num_steps), at, value.exp().numpy())

    rates = [float(kind.hyperparameters(value, step)["learning_rate"]) for step in range(num_steps)]

    assert rates == pytest.approx(expected.tolist(), rel=1e-13)


@pytest.mark.parametrize(("num_points", "num_steps"), [(1, 5), (1, 1), (3, 1)])
def test_learning_rate_of_one_point_or_one_step_is_the_first_point(num_points, num_steps):
    """There is nothing to interpolate between, and nothing to divide by."""
    value = torch.linspace(-3, -5, num_points, dtype=torch.float64)
    kind = LearningRatePoints(value, num_steps=num_steps)

    rates = [float(kind.hyperparameters(value, step)["learning_rate"]) for step in range(num_steps)]

    assert rates == pytest.approx([math.exp(-3)] * num_steps, rel=1e-15)


@pytest.mark.parametrize("step", [0, 1, 4, 7, 8])
def test_learning_rate_passes_gradcheck(step):
    """The rate's derivative is the whole metagradient of a schedule."""
    value = vector(-1.0, -0.5, -2.0).requires_grad_()
    kind = LearningRatePoints(value.detach(), num_steps=9)

    assert torch.autograd.gradcheck(
        lambda z: kind.hyperparameters(z, step)["learning_rate"], [value]
    )


@pytest.mark.parametrize("value", [vector(1.0, -1.0), vector(0.5, 1.0)], ids=["negative", "half"])
def test_counts_that_are_no_counts_are_refused(value):
    """An epoch of -1 copies was once computed without a word, from two rules that disagreed."""
    with pytest.raises(ConfigurationError, match="negative or not whole"):
        Counts(value)
