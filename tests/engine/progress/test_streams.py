"""The time that is left, on what runs of shipped recipes have told of themselves."""

import statistics

import pytest

from tests.helpers.runs.streams import BUSY, WALL, errors, read_streams, tell

QUIET = read_streams()
CORRECTED = read_streams(BUSY)
STREAMS = {f"{name}, quiet": each for name, each in QUIET.items()} | {
    f"{name}, busy": each for name, each in CORRECTED.items()
}

LIMITS = {"digits-schedule, busy": (0.25, 0.4)}
"""Median and ninth decile of the error, where a tenth of the run is a search that is a guess."""


@pytest.mark.parametrize("name", QUIET)
def test_time_left_is_within_a_fifth_from_a_quarter_of_the_run_on(name):
    """By the wall, on a machine that nobody else used; one look in ten may be further off."""
    later = [error for _, error in errors(QUIET[name], WALL)]

    assert QUIET[name]["load"] <= 2  # of two cores, else it was no quiet machine
    assert len(later) > 20
    assert statistics.median(later) < 0.15
    assert statistics.quantiles(later, n=10)[-1] < 0.25


@pytest.mark.parametrize("name", STREAMS)
def test_time_left_is_known_once_an_outer_step_was_measured(name):
    """By the clock of the processor: those who used the machine besides are no part of the run."""
    later = [error for _, error in errors(STREAMS[name], start=0.4)]

    median, most = LIMITS.get(name, (0.2, 0.25))
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
