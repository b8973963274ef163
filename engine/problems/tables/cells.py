"""Cells of a table as numbers. The training rows decide how a column is read in every split."""

import datetime
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.secret_urls import beginning

_logger = logging.getLogger(__name__)

_MOST_VALUES = 50
"""Most different words of a column that become one column each."""

_SEEN = 0.005
"""Least share of a word in a changed row that is told."""

_EPOCH = datetime.date(1970, 1, 1).toordinal()
"""Day of the calendar from which times are counted."""

_WRITTEN = re.compile(r"[+\-\u2212]?[$€£¥]?\s?\d[\d.,'\u2019\s\u00a0\u202f]*\s?[%$€£¥]?")
"""A number as people write it, with marks of thousands, of a currency or of a share."""


@dataclass(frozen=True)
class Column:
    """How a column becomes numbers, decided by the training rows and applied to all rows."""

    name: str
    words: tuple[str, ...] = ()
    mean: float = 0.0
    spread: float = 1.0
    gaps: bool = False
    is_day: bool = False
    varies: bool = True
    """Whether training rows have several numbers there."""

    def numbers(self, values: Sequence[Any], split: str) -> np.ndarray:
        """Return one number or more for each row of a split, shape (rows, numbers)."""
        if self.words:
            rows = [[float(str(value) == word) for word in self.words] for value in values]
            return np.array(rows, dtype=np.float64)
        found = np.array([number(value) for value in values], dtype=np.float64)
        if np.isinf(found).any():
            strange = values[int(np.flatnonzero(np.isinf(found))[0])]
            raise DataError(
                f"The column {self.name!r} of the {split} rows holds {strange!r}, but the training "
                "rows hold numbers there. Correct these rows, or leave the column out of features."
            )
        empty = np.isnan(found)
        scaled = np.where(empty, 0.0, (found - self.mean) / self.spread)[:, None]
        return np.hstack([scaled, empty[:, None].astype(np.float64)]) if self.gaps else scaled

    @property
    def width(self) -> int:
        """How many numbers it becomes."""
        return len(self.words) or 1 + self.gaps

    def in_words(self, numbers: Sequence[float]) -> str:
        """Return the column's numbers of one row, perhaps changed ones, as people read them."""
        if self.words:
            shares = [
                f"{word} {share:.2g}"
                for word, share in zip(self.words, numbers, strict=True)
                if abs(share) >= _SEEN
            ]
            whole = [word for word, share in zip(self.words, numbers, strict=True) if share == 1]
            return whole[0] if len(whole) == len(shares) == 1 else ", ".join(shares)
        value = numbers[0] * self.spread + self.mean
        gap = numbers[1] if self.gaps else 0.0
        if gap == 1 and numbers[0] == 0:
            return "missing"
        if self.is_day:
            return datetime.date.fromordinal(round(value) + _EPOCH).isoformat()
        return f"{value:.5g}"


def fitted(name: str, values: Sequence[Any]) -> Column:
    """Return how a column becomes numbers, as the training rows have it.

    Raises:
        DataError: If it holds nothing, too many words, or what is neither a word nor a number.
    """
    known = [value for value in values if not is_missing(value)]
    if not known:
        raise DataError(f"The column {name!r} is empty. Leave it out of features.")
    if all(isinstance(value, str) for value in known):
        words = tuple(sorted(set(known)))
        if len(words) > _MOST_VALUES:
            raise DataError(
                f"The column {name!r} has {len(words)} different words, too many to have a column "
                f"each (at most {_MOST_VALUES}). {_instead_of_words(name, words)}"
            )
        return Column(name, words=words)
    numbers = np.array([number(value) for value in known], dtype=np.float64)
    if not np.isfinite(numbers).all():
        strange = known[int(np.flatnonzero(~np.isfinite(numbers))[0])]
        raise DataError(f"The column {name!r} holds {_no_number(strange)}")
    _tell_of_digits(name, known)
    mean, spread = centre(numbers)
    if not (math.isfinite(mean) and math.isfinite(spread)):
        raise DataError(
            f"The column {name!r} holds numbers as large as {np.abs(numbers).max():.3g}, whose "
            "spread no number can hold. Give it another unit, or leave it out of features."
        )
    is_day = all(type(value) is datetime.date for value in known)
    varies = bool(numbers.min() < numbers.max())
    return Column(name, (), mean, spread, len(known) < len(values), is_day, varies)


def centre(numbers: np.ndarray) -> tuple[float, float]:
    """Return the mean of numbers and their spread, which is 1 where all are the same.

    The mean of equal numbers is rounded, so that their deviation is a last digit and not 0. In
    units of that, another number in a held-out row would be 1e15.
    """
    if numbers.min() == numbers.max():
        return float(numbers[0]), 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        return float(numbers.mean()), float(numbers.std()) or 1.0


def _tell_of_digits(name: str, known: Sequence[Any]) -> None:
    """Say that whole numbers have more digits than a number to compute with holds."""
    lost = [value for value in known if type(value) is int and int(float(value)) != value]
    if lost:
        _logger.warning(
            f"The column {name!r} holds whole numbers beyond 2**53, of which {len(lost)} lose "
            f"their last digits as numbers to learn from: {lost[0]} becomes {int(float(lost[0]))}. "
            "If rows are called by it, set names to it; if it is a code, write it as a word; if "
            "small differences count, subtract a constant."
        )


def _instead_of_words(name: str, words: Sequence[str]) -> str:
    """Say what to do about a column of too many words."""
    marked = [word for word in words if are_marked(word)]
    others = [word for word in words if not math.isfinite(number(word))]
    if len(marked) > len(words) / 2:
        return (
            f"Most look like numbers, e.g. {marked[0]!r}: write them without marks of thousands, "
            "currencies or shares."
        )
    if len(others) < len(words) / 2:
        return (
            f"Most are numbers, but {beginning(others[0], 40)!r} is none: correct these rows, or "
            "leave the cell empty where a number is missing."
        )
    return (
        "If rows are called by it, set names to it, e.g. with --set "
        f"arguments.names={name}; else list the other columns in features."
    )


def _no_number(value: Any) -> str:  # noqa: ANN401 (a cell)
    """Say what a cell is instead of a number, and what to do, in words that end a sentence."""
    if isinstance(value, list | tuple | np.ndarray):
        return (
            "lists, and a column has one number or word in each row. Write each number of the "
            "lists into a column of its own, or save them in npz as an array with two axes."
        )
    if isinstance(value, float):
        return f"{value}, which is no number to learn from. Remove or correct these rows."
    return (
        f"what is no number, e.g. {beginning(value, 40)!r} ({type(value).__name__}). Leave it out "
        "of features."
    )


def are_marked(word: str) -> bool:
    """Say whether a word is a number with marks that only people read."""
    return not math.isfinite(number(word.strip())) and bool(_WRITTEN.fullmatch(word.strip()))


def is_missing(value: Any) -> bool:  # noqa: ANN401 (a cell)
    """Say whether a cell is empty."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def number(value: Any) -> float:  # noqa: ANN401 (a cell)
    """Return a cell as a number: NaN where it is missing, infinity where it is none.

    Days and times are counted in days from one beginning, so that a split that has times and one
    that has days agree.
    """
    if is_missing(value):
        return float("nan")
    if isinstance(value, datetime.datetime):
        # A time without a zone is the same number on every machine.
        known = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return known.timestamp() / 86400
    if isinstance(value, datetime.date):
        return float(value.toordinal() - _EPOCH)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds() / 86400
    try:
        return float("inf") if isinstance(value, bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("inf")
