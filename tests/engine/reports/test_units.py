"""Times and sizes as people write and read them."""

import pytest

from engine.errors import ConfigurationError
from engine.reports.units import parse_duration, write_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("7d", 604800), ("2w", 1209600), ("0s", 0)]
)
def test_time_has_a_unit(text, seconds):
    """A bare number would be seconds to one reader and days to another."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["7", "d", "-1d", "7 days", ""])
def test_other_times_are_refused_with_an_example(text):
    """What is deleted by age must not depend on a guess."""
    with pytest.raises(ConfigurationError, match="7d"):
        parse_duration(text)


def test_time_is_written_in_two_units():
    """People compare runs by minutes, not by thousands of seconds."""
    assert write_duration(12.34) == "12.3 s"
    assert write_duration(365.0) == "6 min 5 s"
    assert write_duration(11520.0) == "3 h 12 min"
