"""The time that is left, on what runs of shipped recipes have told of themselves."""

import statistics

import pytest

from tests.streams import WALL, errors, read_streams, tell

STREAMS = read_streams()


@pytest.mark.parametrize("name", STREAMS)
def test_time_left_is_within_a_fifth_from_a_quarter_of_the_run_on(name):
    """By the wall, on a machine that nobody else used; of nine looks in ten within a quarter."""
    later = [error for _, error in errors(STREAMS[name], WALL)]

    assert STREAMS[name]["load"] <= 2  # of two cores, else it was no quiet machine
    assert len(later) > 20
    assert statistics.median(later) < 0.2
    assert statistics.quantiles(later, n=10)[-1] < 0.25


def test_streams_are_of_several_kinds_and_whole():
    """One that ends in the middle would say nothing of the end."""
    assert len(STREAMS) >= 5
    for stream in STREAMS.values():
        whole, seen = tell(stream)
        assert whole > 5
        assert seen[-1][1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", STREAMS)
def test_plan_alone_would_not_do(name):
    """A stream whose plan is right to the last would say nothing of corrections."""
    whole, seen = tell(STREAMS[name], WALL)

    assert seen[0][1] is None or abs(seen[0][1] - whole) / whole > 0.05
