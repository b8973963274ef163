"""Derivatives beside finite differences, where the values are rounded."""

import pytest
import torch

from engine.witness.finite_differences import FIRST_LIMIT, compare_first


def _point():
    return [torch.linspace(0.5, 1.5, 8, dtype=torch.float64)]


@pytest.mark.parametrize("size", [1e-11, 1e-13, 1e-16])
def test_slopes_below_the_rounding_of_the_value_say_nothing(size):
    """An adapter that begins at zero hardly moves the output: all differences are the same, 0."""
    found = compare_first(lambda rows: 1 + size * rows[0].pow(3).sum(), _point())

    assert not found.is_wrong


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-7])
def test_slopes_that_are_cut_are_wrong_however_small(size):
    """As long as the values tell it."""
    found = compare_first(
        lambda rows: 1 + size * (rows[0].pow(3) * rows[0].detach()).sum(), _point()
    )

    assert found.is_wrong
    assert found.error > FIRST_LIMIT
