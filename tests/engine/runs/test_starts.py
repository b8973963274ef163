"""How long each start of a run took, where all that is known are times of commits."""

from datetime import UTC, datetime, timedelta

from engine.runs.starts import seconds_until_last

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_stage_that_ends_as_the_next_start_begins_is_counted_once_and_before_it():
    """Clocks of some file systems tell whole seconds, so two things may be of one instant."""
    times = [NOON, NOON + timedelta(seconds=30)]
    made = [
        {"started": (end - timedelta(seconds=9)).isoformat(), "seconds": 9.0}
        for end in (times[0], times[1])
    ]

    assert seconds_until_last(times, made) == {times[0]: 30.0, times[1]: 0.0}
    assert seconds_until_last(times[:1], made, times[1]) == {times[0]: 30.0}
