"""Queries from a basis, beside the sweep of each."""

import pytest
import torch
from torch.nn import functional

import engine
from engine.errors import ConfigurationError
from engine.replay.query_basis import query_basis
from tests.helpers.trainings import routines


def losses(start, stop):
    """Losses of single held-out points, each an output."""
    inputs, labels = routines.examples(40, seed=1)

    def of(i):
        return lambda model: functional.cross_entropy(model(inputs[i : i + 1]), labels[i : i + 1])

    return [of(i) for i in range(start, stop)]


@pytest.fixture(scope="module")
def run():
    return routines.routine(num_steps=12)


@pytest.fixture(scope="module")
def basis(run):
    return query_basis(run, losses(0, 6), vjp="batched")


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_query_in_the_span_is_that_of_its_own_sweep(run, basis):
    """A mean over some of the outputs is as good as one of them."""
    outputs = losses(0, 6)

    def mean(model):
        return torch.stack([each(model) for each in outputs[1:5]]).mean()

    found = basis.query(mean)

    assert found.outside < 1e-6
    assert error(found["weights"], engine.metagradient(run, mean)["weights"]) < 1e-6


def test_every_size_says_what_it_lacks(run, basis):
    """The share outside falls with K, and what is lacking is pulled back from it."""
    *known, other = [*losses(0, 6), *losses(9, 10)]

    def query(model):
        return torch.stack([each(model) for each in known]).mean() + 0.05 * other(model)

    exact = engine.metagradient(run, query)["weights"]

    shares = basis.outside(query)
    errors = [error(basis.query(query, k)["weights"], exact) for k in range(1, len(basis) + 1)]

    assert shares[0] == 1
    assert (shares.diff() <= 0).all()
    assert basis.query(query, 2).outside == pytest.approx(float(shares[2]))
    assert errors[-1] < errors[0] < 0.3
    assert 0 < float(shares[-1]) < 0.5


def test_average_of_weights_is_what_queries_read():
    """The basis is one of the vector at which the trained model is evaluated."""
    run = routines.routine(num_steps=8, optimizer=engine.averaged(engine.sgd(0.9), 0.8))
    outputs = losses(0, 3)

    found = query_basis(run, outputs).query(outputs[1])

    assert error(found["weights"], engine.metagradient(run, outputs[1])["weights"]) < 1e-6


def test_directions_that_repeat_are_left_out(run):
    """Outputs may be multiples of one another; rounding is no direction."""
    (one,) = losses(0, 1)

    assert len(query_basis(run, [one, lambda model: 2 * one(model)])) == 1


@pytest.mark.parametrize(("size", "outputs"), [(0, 2), (3, 2), (None, 0)])
def test_sizes_that_nothing_spans_are_refused(run, size, outputs):
    """A basis larger than its outputs would have directions of rounding."""
    with pytest.raises(ConfigurationError):
        query_basis(run, losses(0, outputs), size)


@pytest.mark.parametrize("size", [-1, 0, 99])
def test_directions_that_a_basis_does_not_have_are_refused(basis, size):
    """As a slice, -1 would leave one out."""
    with pytest.raises(ConfigurationError, match="1 to 6 directions"):
        basis.query(losses(0, 1)[0], size)


def test_outputs_without_a_derivative_are_refused(run):
    """Zeros have no direction, and a division by their length is NaN."""
    (one,) = losses(0, 1)

    with pytest.raises(ConfigurationError, match="span no direction"):
        query_basis(run, [lambda model: 0 * one(model)])
