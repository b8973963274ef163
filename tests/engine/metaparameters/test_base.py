"""Kinds of metaparameters: where they enter, and where they may lie."""

import math

import numpy as np
import pytest
import torch

from engine import metagradient
from engine.errors import ConfigurationError, UndifferentiableError
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.counts import Counts
from engine.metaparameters.group_weights import GroupWeights
from engine.metaparameters.inputs import Inputs
from engine.metaparameters.learning_rate import LearningRatePoints
from engine.metaparameters.scalars import Scalars
from engine.metaparameters.weights import ExampleWeights, TokenWeights
from tests.helpers.trainings import problems

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
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}.*not finite.*too long"):
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


def mixture(*logits):
    return GroupWeights(vector(*logits), torch.tensor([0, 0, 0, 1]))


def test_proportional_mixture_weighs_every_example_the_same():
    """Log sizes are the mixture that plain training has: from there a descent starts."""
    kind = mixture(0, 0)

    weights = kind.weights(kind.proportional(), torch.arange(4))

    assert weights.tolist() == pytest.approx([1, 1, 1, 1])


def test_uniform_mixture_gives_each_group_the_same_share():
    """A group of one example weighs three times as much as each of a group of three."""
    weights = mixture(0, 0).weights(vector(0, 0), torch.arange(4))

    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_scalars_are_made_from_the_numbers_that_people_speak_of():
    """Logarithms and logits are for the descent alone."""
    kind = Scalars.of(torch.float64, weight_decay=0.01, momentum=0.9)

    numbers = {name: float(value) for name, value in kind.numbers(kind.value).items()}

    assert numbers == pytest.approx({"weight_decay": 0.01, "momentum": 0.9}, rel=1e-6)


@pytest.mark.parametrize(("name", "number"), [("momentum", 1.0), ("weight_decay", 0.0)])
def test_scalar_at_the_edge_of_its_range_is_refused(name, number):
    """Its logarithm or logit is infinite, and every step of a descent would be NaN."""
    with pytest.raises(ConfigurationError, match=rf"{name} starts at {number}.*Start above 0"):
        Scalars.of(**{name: number})


def test_inputs_replace_those_of_the_chosen_examples_only():
    """Labels, other examples and the order of the batch stay as they were."""
    batch = (torch.zeros(3, 2), torch.tensor([5, 6, 7]))
    kind = Inputs(torch.ones(2, 2) * vector(1, 2)[:, None], torch.tensor([4, 1]), num_examples=6)

    inputs, labels = kind.batch(kind.value, batch, torch.tensor([1, 3, 4]))

    assert inputs.tolist() == [[2, 2], [0, 0], [1, 1]]
    assert labels is batch[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupWeights(vector(0, 0), torch.tensor([0, 0])), r"groups have \[2, 0\]"),
        (lambda: Scalars(vector(0), ("width",)), r"\['width'\].*weight_decay"),
        (lambda: Scalars(vector(0, 0), ("eps",)), "have 2 values"),
        (
            lambda: Inputs(torch.ones(2, 3), torch.tensor([1, 1]), num_examples=4),
            "each example once",
        ),
    ],
    ids=["empty-group", "unknown-scalar", "scalar-without-name", "chosen-twice"],
)
def test_parts_of_a_kind_that_do_not_fit_are_refused(make, message):
    """Each of these would train something else than what was meant, without an error."""
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GroupWeights(vector(0), torch.zeros(5, dtype=torch.int64)), "5 values for 12 examples"),
        (TokenWeights(torch.ones(4, 3).double()), "4 values for 12 examples"),
        (Inputs(torch.ones(1, 4).double(), torch.tensor([0]), num_examples=9), "num_examples=12"),
    ],
    ids=["groups", "tokens", "inputs"],
)
def test_kind_for_another_number_of_examples_is_refused(kind, message):
    """The values of the wrong examples would be read, or none at all."""
    with pytest.raises(ConfigurationError, match=message):
        problems.routine(metaparameters={"z": kind})


def test_loss_that_does_not_take_what_a_kind_hands_it_is_refused():
    """Left out in silence, the metagradient by it would be zero."""

    def plain(model, batch):
        return problems.loss(model, batch)

    with pytest.raises(ConfigurationError, match=r"label_smoothing.*loss\(model, batch, label"):
        problems.routine(loss=plain, metaparameters={"z": Scalars.of(label_smoothing=0.1)})


def test_scalar_that_the_optimizer_does_not_read_is_an_error_and_not_a_zero():
    """SGD has no beta1; a zero metagradient would look like an answer."""
    routine = problems.routine("sgd", metaparameters={"z": Scalars.of(torch.float64, beta1=0.9)})

    with pytest.raises(UndifferentiableError, match="nothing that the step computes depends"):
        metagradient(routine, problems.output)
