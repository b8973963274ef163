"""Twins in another number format draw the numbers of the run."""

import pytest
import torch
from torch import distributions

from engine.routine.number_format import SameNumbers, in_format
from tests.helpers.trainings import routines

SHAPE = (9, 7)
"""Of more than 16 numbers: torch draws fewer in the same way for every format."""


def ones(dtype):
    return torch.ones(SHAPE, dtype=dtype)


DRAWS = {
    "rand": lambda dtype: torch.rand(SHAPE, dtype=dtype),
    "randn": lambda dtype: torch.randn(SHAPE, dtype=dtype),
    "rand_like": lambda dtype: torch.rand_like(ones(dtype)),
    "randn_like": lambda dtype: torch.randn_like(ones(dtype)),
    "normal": lambda dtype: torch.normal(0.5 * ones(dtype), ones(dtype)),
    "normal of a size": lambda dtype: torch.normal(0.5, 2.0, SHAPE, dtype=dtype),
    "normal_": lambda dtype: ones(dtype).normal_(0.5, 2.0),
    "uniform_": lambda dtype: ones(dtype).uniform_(-1.0, 2.0),
    "bernoulli": lambda dtype: torch.bernoulli(0.3 * ones(dtype)),
    "bernoulli, a method": lambda dtype: (0.3 * ones(dtype)).bernoulli(),
    "bernoulli_": lambda dtype: ones(dtype).bernoulli_(0.3),
    "exponential_": lambda dtype: ones(dtype).exponential_(2.0),
    "multinomial": lambda dtype: torch.multinomial(ones(dtype), 5),
    "poisson": lambda dtype: torch.poisson(3 * ones(dtype)),
    "dropout": lambda dtype: torch.nn.functional.dropout(ones(dtype), 0.3),
    "dropout of channels": lambda dtype: torch.nn.functional.dropout1d(ones(dtype), 0.3),
    "gumbel": lambda dtype: torch.nn.functional.gumbel_softmax(ones(dtype)),
    "a distribution": lambda dtype: distributions.Normal(ones(dtype), 2.0).rsample(),
    "a uniform one": lambda dtype: distributions.Uniform(-ones(dtype), ones(dtype)).rsample(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_code_draws_the_same_numbers_in_float64(name):
    """Noise of a model, such as that of an autoencoder; other noise looks like lost digits."""
    draw = DRAWS[name]
    torch.manual_seed(4)
    own = draw(torch.float32)

    torch.manual_seed(4)
    with SameNumbers(torch.float64):
        twin = draw(torch.float64)

    assert torch.allclose(own.double(), twin.double(), rtol=1e-6, atol=1e-6)
    assert len(own.unique()) > 1


NOISE = {
    "randn": lambda x, drawn: torch.randn(x.shape, generator=drawn, dtype=x.dtype),
    "rand": lambda x, drawn: torch.rand(x.shape, generator=drawn, dtype=x.dtype),
    "normal": lambda x, drawn: torch.normal(torch.zeros_like(x), 1.0, generator=drawn),
    "normal_": lambda x, drawn: torch.empty_like(x).normal_(generator=drawn),
    "uniform_": lambda x, drawn: torch.empty_like(x).uniform_(generator=drawn),
}


@pytest.mark.parametrize("name", NOISE)
def test_augmentation_draws_the_same_noise_in_float64(name):
    """Its generator is handed to it, and the format is that of the batch."""
    run = routines.single(augment=lambda batch, drawn: (NOISE[name](batch[0], drawn), batch[1]))
    twin = in_format(run, torch.float64)

    own, exact = (
        each.augment((torch.zeros(9, 8, dtype=dtype), None), torch.Generator().manual_seed(2))[0]
        for each, dtype in ((run, torch.float32), (twin, torch.float64))
    )

    assert exact.dtype == torch.float64
    assert torch.allclose(own.double(), exact, rtol=1e-6, atol=1e-6)


def test_data_that_an_output_makes_is_the_same_in_every_format():
    """A generator of its own draws in the format that is asked for, whatever the twin's is."""

    def points():
        drawn = torch.Generator().manual_seed(3)
        return torch.randn(9, 8, generator=drawn, dtype=torch.float64)

    with SameNumbers(torch.float32):
        found = points()

    assert torch.equal(found, points().float())
