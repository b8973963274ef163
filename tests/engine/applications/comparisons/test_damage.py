"""Attribution of damage along a path, against functions whose change is known."""

import torch

from engine.applications.comparisons.damage import path_shares


def path(function, num_steps):
    """A curved path in 3 rows of 2, and the gradients along it."""
    times = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    start = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    values = [start + t * start.flip(0) + t**2 for t in times]
    gradients = [torch.func.grad(function)(value).reshape(-1) for value in values]
    return values, gradients


def test_parts_add_up_to_the_whole_change():
    """Of a quadratic function the trapezoidal rule makes no error, so nothing may be missing."""
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def function(value):
        return value.reshape(-1) @ matrix @ value.reshape(-1)

    values, gradients = path(function, 5)

    shares = path_shares(values, gradients)

    expected = function(values[-1]) - function(values[0])
    torch.testing.assert_close(shares.sum(), expected, rtol=1e-12, atol=0)


def test_each_row_has_the_change_that_it_makes():
    """Where rows do not act together, a row's part is what its own change does."""

    def by_row(value):
        return (value**2).sum(1) * torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)

    values, gradients = path(lambda value: by_row(value).sum(), 4)

    shares = path_shares(values, gradients)

    torch.testing.assert_close(shares, by_row(values[-1]) - by_row(values[0]))


def test_last_point_needs_no_gradient():
    """A descent takes no metagradient where it ends: the last step is measured at its start."""
    values, gradients = path(lambda value: value.sum(), 3)

    assert torch.allclose(path_shares(values, gradients[:-1]), path_shares(values, gradients))
