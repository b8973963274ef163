"""The time that is left, on what runs of shipped recipes have told of themselves."""

import statistics

import pytest

from tests.streams import BUSY, errors, read_streams, tell

QUIET = read_streams()
CORRECTED = read_streams(BUSY)

STREAMS = {f"{name}, quiet": each for name, each in QUIET.items()} | {
    f"{name}, busy": each for name, each in CORRECTED.items()
}

LIMITS = {
    "digits-schedule, busy": (0.25, 0.4),
    "digits-schedule, quiet": (0.25, 0.4),
    "digits-mixture, quiet": (0.25, 0.35),
    "digits-attribution, quiet": (0.15, 0.2),
}
"""Median and ninth decile of the error, where much of a run of 12 to 20 s is a guess: a search that
is trained as one batch, a report of two seconds."""


@pytest.mark.parametrize("name", STREAMS)
def test_time_left_is_known_once_an_outer_step_was_measured(name):
    """By the clock of the processor: those who used the machine besides are no part of the run."""
    later = [error for _, error in errors(STREAMS[name], start=0.4)]

    median, most = LIMITS.get(name, (0.1, 0.2))
    assert len(later) > 20
    assert statistics.median(later) < median
    assert statistics.quantiles(later, n=10)[-1] < most


def test_streams_are_of_several_kinds_and_whole():
    """One that ends in the middle would say nothing of the end."""
    assert len(QUIET) >= 5
    assert len(CORRECTED) >= 3
    for stream in STREAMS.values():
        whole, seen = tell(stream)
        assert whole > 5
        assert seen[-1][1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", CORRECTED)
def test_plan_alone_would_not_do(name):
    """A stream whose plan is right would say nothing of corrections."""
    whole, seen = tell(CORRECTED[name])

    assert abs(seen[0][1] - whole) / whole > 0.5
