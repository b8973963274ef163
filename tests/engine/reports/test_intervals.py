"""How sure a mean over few queries is."""

import numpy as np
import pytest

from engine.reports.intervals import interval


def test_two_values_that_differ_leave_a_doubt():
    """A resample of two has one of them twice, at least once in forty: the interval is both."""
    found = interval([0.0, 1.0])

    assert (found.low, found.mean, found.high) == (0.0, 0.5, 1.0)


def test_bounds_are_the_percentiles_of_resampled_means():
    """Beside resampling by hand, with other draws: 40,000 means leave 0.005 of a percentile."""
    values = np.random.default_rng(1).normal(size=20)
    drawn = np.random.default_rng(2).choice(values, (40_000, 20)).mean(axis=1)

    found = interval(list(values))

    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    assert found.mean == pytest.approx(values.mean())


def test_the_same_values_have_the_same_interval():
    """A report that is written again says the same."""
    assert interval([0.1, 0.4, 0.2]) == interval([0.1, 0.4, 0.2])
