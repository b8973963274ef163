"""Times and sizes as people write and read them."""

import math
import re
from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigurationError

DAY = 86400.0
"""Seconds of a day."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``30m``, ``12h``, ``7d`` or ``2w``.

    Raises:
        ConfigurationError: If it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not found:
        raise ConfigurationError(
            f"{text!r} is not a time. Write a number and a unit: 90s, 30m, 12h, 7d or 2w."
        )
    return float(found[1]) * _UNITS[found[2]]


def write_duration(seconds: float) -> str:
    """Write a time for people, e.g. ``12.3 s``, ``6 min 5 s`` or ``3 h 12 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def write_found(value: float | None) -> str:
    """Write a measured number in few digits; empty if there is none."""
    return "" if value is None else f"{value:.3g}"


def write_small(value: float) -> str:
    """Write a signed number in two digits and as few letters as can be, e.g. ``-9.9e-3``."""
    digits, exponent = f"{value:+.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def number_in(document: Mapping[str, Any], name: str) -> float:
    """Return a number of a document that may be damaged; 0 if there is none."""
    value = document.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def write_number(value: float) -> str:
    """Write a loss or the like in four decimals, or with an exponent where these say nothing."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def write_percent(share: float, digits: int | None = None) -> str:
    """Write a share of 1 in percent, by default in as many digits as tell small ones apart."""
    if digits is None:
        digits = 0 if abs(share) >= 0.1 else 1
    return f"{100 * share:.{digits}f} %"


_SHARES = ("accuracy", "text_to_image")
"""Measures of shipped problems that are shares of 1."""


def measures(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores besides the loss: accuracy, and metrics of a problem's own."""
    return {
        name: float(value)
        for name, value in scores.items()
        if name != "loss" and isinstance(value, int | float)
    }


def write_measure(name: str, value: float) -> str:
    """Write what a metric of this name measured; the unit of a user's own metric is not known."""
    return write_percent(value, 1) if name in _SHARES else write_number(value)
