"""The time that is left, on what runs of shipped recipes have told of themselves."""

import statistics

import pytest

from tests.streams import errors, read_streams, tell

STREAMS = read_streams()

LIMITS = {"digits-schedule": (0.25, 0.4)}
"""Median and ninth decile of the error, where a tenth of the run is a search that is a guess."""


@pytest.mark.parametrize("name", STREAMS)
def test_time_left_is_known_once_an_outer_step_was_measured(name):
    """By the clock of the processor: those who used the machine besides are no part of the run.

    The plans of these runs were measured while twenty others wanted the two cores, and are wrong by
    a factor of ten by that clock, so each was corrected.
    """
    later = [error for _, error in errors(STREAMS[name], start=0.4)]

    median, most = LIMITS.get(name, (0.1, 0.2))
    assert len(later) > 20
    assert statistics.median(later) < median
    assert statistics.quantiles(later, n=10)[-1] < most


def test_streams_are_of_several_kinds_and_whole():
    """One that ends in the middle would say nothing of the end."""
    assert len(STREAMS) >= 3
    for stream in STREAMS.values():
        whole, seen = tell(stream)
        assert whole > 5
        assert seen[-1][1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", STREAMS)
def test_plan_alone_would_not_do(name):
    """A stream whose plan is right would say nothing of corrections."""
    whole, seen = tell(STREAMS[name])

    assert abs(seen[0][1] - whole) / whole > 0.5
