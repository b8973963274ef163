"""Rounds of measurements, and the table that they become."""

import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEADER = (
    "contender", "plain (s)", "forward (s)", "whole (s)", "least to most", "whole / plain torch",
    "peak (MB)", "growth (MB)", "growth in the run (MB)", "stored (MB)", "error", "runs",
)  # fmt: skip


@dataclass
class Row:
    """What one contender was seen to do.

    Attributes:
        label: Its name.
        answers: What it measured, by command, one answer a round.
        gradient: Its last metagradient.
        start_seconds: What loading and compiling took.
        start_rss: Resident bytes when it was ready.
        about: Versions, and what it computes.
        reason: Why there is nothing, or no more, of it.
    """

    label: str
    answers: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    gradient: np.ndarray | None = None
    start_seconds: float = 0.0
    start_rss: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def add(self, command: str, turn: int, answer: dict[str, Any]) -> None:
        """Keep the answer of a round."""
        self.answers.setdefault(command, {})[turn] = answer

    @property
    def growth(self) -> int | None:
        """By how many bytes it grew at most, beyond what it had when it was ready."""
        answers = self.answers.get("whole", {}).values()
        peak = max((answer["rss_peak"] for answer in answers), default=None)
        return None if peak is None else peak - self.start_rss

    def seconds(self, command: str) -> dict[int, float]:
        """Return the seconds of a command by round."""
        return {turn: answer["seconds"] for turn, answer in self.answers.get(command, {}).items()}


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return |found - expected| / |expected| in the Euclidean norm.

    Raises:
        ValueError: If the shapes differ, or either holds a number that is not finite.
    """
    if found.shape != expected.shape:
        raise ValueError(f"a metagradient of shape {found.shape}, expected {expected.shape}")
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        raise ValueError("a metagradient with numbers that are not finite")
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def ratio(seconds: dict[int, float], unit: dict[int, float]) -> float | None:
    """Return the median over common rounds of one time over another of the same round.

    Two times of one round were measured within minutes of each other, so that a load which comes
    and goes moves both.
    """
    common = seconds.keys() & unit.keys()
    return statistics.median(seconds[turn] / unit[turn] for turn in common) if common else None


def table(rows: list[Row], unit_label: str, expected: np.ndarray | None) -> str:
    """Return the rows as a Markdown table, and below it whoever is missing."""
    (unit,) = [row for row in rows if row.label == unit_label]
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    lines += [_line(_cells(row, unit, expected)) for row in rows if row.answers]
    missing = [f"- {row.label}: {row.reason}" for row in rows if row.reason]
    return "\n".join([*lines, *(["", "Missing:", "", *missing] if missing else [])])


def _cells(row: Row, unit: Row, expected: np.ndarray | None) -> list[str]:
    whole = row.seconds("whole")
    answers = list(row.answers.get("whole", {}).values())
    peak = max((answer["rss_peak"] for answer in answers), default=None)
    grown = max((each["rss_peak"] - each["rss_before"] for each in answers), default=None)
    stored = answers[-1]["stored"] if answers else None
    error = (
        None if row.gradient is None or expected is None else relative_error(row.gradient, expected)
    )
    return [
        row.label,
        _median(row.seconds("plain")),
        _median(row.seconds("forward")),
        _median(whole),
        f"{min(whole.values()):.2f} to {max(whole.values()):.2f}" if whole else "",
        _number(ratio(whole, unit.seconds("plain"))),
        _megabytes(peak),
        _megabytes(row.growth),
        _megabytes(grown),
        _megabytes(stored),
        "" if error is None else f"{error:.1e}",
        str(len(whole) or len(row.seconds("plain"))),
    ]


def _median(seconds: dict[int, float]) -> str:
    return f"{statistics.median(seconds.values()):.2f}" if seconds else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f}"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
