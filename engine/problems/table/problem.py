"""A table (CSV, Parquet or npz) with a column of labels, as a problem."""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import DataError
from engine.models.losses import per_example_cross_entropy
from engine.numerics.determinism import generator
from engine.problems.base import Problem
from engine.problems.splits import Examples
from engine.problems.table.files import read_table
from engine.problems.user_models import model_maker
from engine.recipes.arguments.data import Target
from engine.recipes.arguments.model import ModelConfig
from engine.routine.outputs import classification_scores
from engine.types import Batch

_MOST_CLASSES = 20
"""Most whole numbers of a label that are taken for classes without being told."""

_MOST_VALUES = 50
"""Most different words of a column that become one column each."""


_SHOWN = 5
"""Words by place in a sentence."""

_SEEN = 0.005
"""Least share of a word in a changed row that is told."""


@dataclass(frozen=True)
class _Column:
    """How a column of the training rows becomes numbers; other rows are taken the same way."""

    name: str
    words: tuple[str, ...] = ()
    mean: float = 0.0
    spread: float = 1.0
    gaps: bool = False
    is_day: bool = False

    def numbers(self, values: Sequence[Any], split: str) -> np.ndarray:
        """Return one number or more for each row of a split, shape (rows, numbers)."""
        if self.words:
            rows = [[float(str(value) == word) for word in self.words] for value in values]
            return np.array(rows, dtype=np.float64)
        found = np.array([_number(value) for value in values], dtype=np.float64)
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

    def told(self, numbers: Sequence[float]) -> str:
        """Return its numbers of one row as people read them, changed ones too."""
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
        return (
            datetime.date.fromordinal(round(value)).isoformat() if self.is_day else f"{value:.5g}"
        )


class Wanted(NamedTuple):
    """Columns of a table by what they are."""

    label: str
    """The label."""

    features: tuple[str, ...]
    """What the model reads; empty means all others."""

    names: str | None
    """What people call a row; empty means its number."""

    target: Target = Target.AUTO
    """What the label is."""


def table_problem(
    urls: dict[str, str | None],
    wanted: Wanted,
    held_out: float,
    seed: int,
    model: ModelConfig | str,
) -> Problem:
    """Return rows with a label, and a model that predicts it: classes, or a number.

    Numbers are standardized by the training rows; words become one column each; a date is its day;
    a missing value is the mean, and a column says that it was missing. The loss of a number is the
    squared error in units of its spread. Where a run changes the rows themselves, a number stays
    between the smallest and the largest of its column.

    Args:
        urls: ``train``, and ``objective``, ``validation`` and ``test`` where they are files of
            their own with the same columns.
        wanted: Which columns are what.
        held_out: Share of the rows that are held out if ``objective`` has no file.
        seed: Seeds which rows are held out.
        model: See ``engine.problems.user_models.model_maker``.

    Raises:
        DataError: If a file or a column cannot be used; says which.
    """
    assert urls["train"] is not None  # an argument of the problem
    tables = {name: read_table(url, name) for name, url in urls.items() if url is not None}
    if "objective" not in tables:
        tables["train"], tables["objective"] = _hold_out(tables["train"], held_out, seed)
    label, features, names, _ = wanted
    read = features or tuple(tables["train"])
    _check_columns(tables, [label, *read, *([names] if names else [])], urls)
    return rows_problem(tables, wanted, model)


def rows_problem(
    tables: dict[str, dict[str, list[Any]]],
    wanted: Wanted,
    model: ModelConfig | str,
    notes: tuple[str, ...] = (),
) -> Problem:
    """Return the columns of each split as a problem; see ``table_problem``.

    Args:
        tables: Split to its columns, ``train`` and ``objective`` among them.
        wanted: Which columns are what.
        model: See ``engine.problems.user_models.model_maker``.
        notes: What people should know of the rows.
    """
    label, features, names, target = wanted
    train = tables["train"]
    read = features or tuple(name for name in train if name not in (label, names))
    columns = [_fitted(name, train[name]) for name in read]
    if target is Target.AUTO:
        target = _guessed([value for rows in tables.values() for value in rows[label]], label)
    classes, spread = _labels(train[label], label, target)
    dtype = torch.get_default_dtype()
    splits = {
        name: Examples(
            torch.from_numpy(
                np.hstack([each.numbers(rows[each.name], name) for each in columns])
            ).to(dtype),
            _targets(rows[label], label, classes, spread, name),
        )
        for name, rows in tables.items()
    }
    inputs = splits["train"].inputs
    number = inputs.shape[1]
    called = {
        name: [str(each) for each in rows[names]] if names else [] for name, rows in tables.items()
    }

    def show(split: str, place: int) -> dict[str, Any]:
        return {name: tables[split][name][place] for name in (*read, label)}

    shared: dict[str, Any] = {
        **splits,
        "names": called.pop("train") or None,
        "show": lambda place: show("train", place),
        "held_out_names": {name: each for name, each in called.items() if each},
        "show_held_out": show,
        "show_inputs": lambda row: _told(row, columns),
        "bounds": (inputs.amin(0), inputs.amax(0)),
        "notes": (*notes, *_numbers_among_words(columns), *_unknown_words(tables, columns)),
    }
    if classes:
        return Problem(
            model=model_maker(model, (number,), len(classes)),
            loss=per_example_cross_entropy,
            num_classes=len(classes),
            classes=classes,
            groups={label: [str(each) for each in train[label]]},
            score=lambda model, examples, chunk: classification_scores(
                model, examples.inputs, examples.labels, chunk=chunk
            ),
            **shared,
        )
    return Problem(
        model=model_maker(model, (number,), 1),
        loss=squared_error,
        metrics={"absolute_error": lambda model, batch: _error(model, batch).abs() * spread[1]},
        **shared,
    )


def _numbers_among_words(columns: Sequence[_Column]) -> list[str]:
    """Say which columns are read as words although most of these are numbers."""
    said = []
    for column in columns:
        words = [word for word in column.words if not math.isfinite(_number(word.strip()))]
        if words and 2 * len(words) < len(column.words):
            shown = ", ".join(map(repr, words[:_SHOWN])) + (", ..." if len(words) > _SHOWN else "")
            said.append(
                f"The column {column.name!r} is read as words, because of {shown}; the rest of it "
                "are numbers."
            )
    return said


def _unknown_words(
    tables: dict[str, dict[str, list[Any]]], columns: Sequence[_Column]
) -> list[str]:
    """Say which words held-out rows have and no training row; the model reads none there."""
    said = []
    for split, rows in tables.items():
        for column in columns:
            words = {str(value) for value in rows[column.name] if not _is_missing(value)}
            unknown = sorted(words.difference(column.words)) if column.words else []
            if unknown:
                shown = ", ".join(map(repr, unknown[:_SHOWN]))
                shown += ", ..." if len(unknown) > _SHOWN else ""
                said.append(
                    f"The column {column.name!r} of the {split} rows has {len(unknown)} words that "
                    f"no training row has, and that the model cannot tell apart: {shown}."
                )
    return said


def _told(row: Tensor, columns: Sequence[_Column]) -> dict[str, str]:
    """Return a row of inputs by the names of its columns, in their own units."""
    parts = row.to(torch.float64).split([each.width for each in columns])
    return {each.name: each.told(part.tolist()) for each, part in zip(columns, parts, strict=True)}


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the squared error of each row, shape (batch,), in units of the label's spread."""
    return _error(model, batch).square()


def _error(model: nn.Module, batch: Batch) -> Tensor:
    inputs, target = batch
    return model(inputs).squeeze(1) - target


def _hold_out(
    rows: dict[str, list[Any]], share: float, seed: int
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    total = len(next(iter(rows.values()), []))
    number = min(max(round(share * total), 1), total - 1)
    if number < 1:
        raise DataError(f"The table has {total} rows, too few to hold any out. Give more rows.")
    order = torch.randperm(total, generator=generator(seed, "held-out rows")).tolist()
    parts = sorted(order[number:]), sorted(order[:number])
    kept, held = (
        {name: [c[place] for place in part] for name, c in rows.items()} for part in parts
    )
    return kept, held


def _check_columns(
    tables: dict[str, dict[str, list[Any]]], needed: list[str], urls: dict[str, str | None]
) -> None:
    for name, rows in tables.items():
        missing = [each for each in needed if each not in rows]
        if missing:
            raise DataError(
                f"The table {urls.get(name) or urls['train']} has no column {missing[0]!r}; it has "
                f"{', '.join(rows)}. Correct the name."
            )


def _fitted(name: str, values: Sequence[Any]) -> _Column:
    """Return how a column becomes numbers, as the training rows have it."""
    known = [value for value in values if not _is_missing(value)]
    if not known:
        raise DataError(f"The column {name!r} is empty. Leave it out of features.")
    if all(isinstance(value, str) for value in known):
        words = tuple(sorted(set(known)))
        if len(words) > _MOST_VALUES:
            raise DataError(
                f"The column {name!r} has {len(words)} different words, too many to have a column "
                f"each (at most {_MOST_VALUES}). Leave it out of features, or make it "
                "arguments.names."
            )
        return _Column(name, words=words)
    numbers = np.array([_number(value) for value in known], dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise DataError(f"The column {name!r} holds what is no number. Leave it out of features.")
    spread = float(numbers.std()) or 1.0
    is_day = all(type(value) is datetime.date for value in known)
    gaps = len(known) < len(values)
    return _Column(name, (), float(numbers.mean()), spread, gaps, is_day)


def _is_missing(value: Any) -> bool:  # noqa: ANN401 (a cell)
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> float:  # noqa: ANN401 (a cell)
    if _is_missing(value):
        return float("nan")
    if isinstance(value, datetime.datetime):
        # A time without a zone is the same number on every machine.
        known = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return known.timestamp() / 86400
    if isinstance(value, datetime.date):
        return float(value.toordinal())
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("inf")


def _labels(
    values: Sequence[Any], name: str, target: Target
) -> tuple[tuple[str, ...], tuple[float, float]]:
    """Return the classes of a label, or none, and its mean and spread."""
    if any(map(_is_missing, values)):
        raise DataError(f"The column {name!r} of the labels has missing values. Remove these rows.")
    numbers = np.array([_number(value) for value in values], dtype=np.float64)
    if target is Target.CLASS:
        return tuple(sorted({str(value) for value in values})), (0.0, 1.0)
    if not np.isfinite(numbers).all():
        raise DataError(
            f"The column {name!r} of the labels holds what is no number. Use "
            "arguments.target=class."
        )
    return (), (float(numbers.mean()), float(numbers.std()) or 1.0)


def _guessed(values: Sequence[Any], name: str) -> Target:
    known = [value for value in values if not _is_missing(value)]
    different = set(known)
    if any(isinstance(value, str | bool) for value in known):
        return Target.CLASS
    if not all(_number(value).is_integer() for value in known):
        return Target.NUMBER
    if len(different) > _MOST_CLASSES:
        raise DataError(
            f"The column {name!r} of the labels has {len(different)} different whole numbers, "
            "which "
            "may be classes or a quantity. Set arguments.target to class or to number."
        )
    return Target.CLASS


def _targets(
    values: Sequence[Any],
    name: str,
    classes: tuple[str, ...],
    spread: tuple[float, float],
    split: str,
) -> Tensor:
    if not classes:
        numbers = torch.tensor([_number(value) for value in values], dtype=torch.float64)
        return ((numbers - spread[0]) / spread[1]).to(torch.get_default_dtype())
    places = {each: place for place, each in enumerate(classes)}
    strange = [str(value) for value in values if str(value) not in places]
    if strange:
        raise DataError(
            f"The {split} rows have the label {name}={strange[0]}, which no training row has. "
            "Remove "
            "these rows, or give training rows of it."
        )
    return torch.tensor([places[str(value)] for value in values])
