"""A table (CSV, Parquet or npz) with a column of labels, as a problem."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import DataError
from engine.models.losses import per_example_cross_entropy
from engine.problems.base import Problem
from engine.problems.data.held_out import held_out_places, notes_of_single_classes
from engine.problems.data.splits import Examples
from engine.problems.scores import class_scores
from engine.problems.tables.alike import told_alike
from engine.problems.tables.cells import Column, are_marked, fitted, is_missing, number
from engine.problems.tables.files import column_name, read_table
from engine.problems.tables.groups import check_groups, groups_of
from engine.problems.tables.labels import class_name, guessed, labels, targets
from engine.problems.tables.numberings import notes_of_nameless_columns, numberings
from engine.problems.user_models import model_maker
from engine.recipes.arguments.data import Target
from engine.recipes.arguments.model import ModelSettings
from engine.types import Batch

_SHOWN = 5
"""Words by place in a sentence."""


class TableColumns(NamedTuple):
    """Columns of a table by what they are."""

    label: str
    """The label."""

    features: tuple[str, ...]
    """What the model reads; empty means all others."""

    names: str | None
    """What people call a row; empty means its number."""

    target: Target = Target.AUTO
    """What the label is."""

    groups: tuple[str, ...] = ()
    """What says of which group a row is, for mixtures."""

    def looked_up(self) -> "TableColumns":
        """Return the same with all names in the form in which those of files are read."""
        return self._replace(
            label=column_name(self.label),
            features=tuple(map(column_name, self.features)),
            names=self.names and column_name(self.names),
            groups=tuple(map(column_name, self.groups)),
        )


def table_problem(
    urls: dict[str, str | None],
    wanted: TableColumns,
    held_out: float,
    seed: int,
    model: ModelSettings | str,
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
    wanted = wanted.looked_up()
    label, features, names, _, groups = wanted
    _check_features(label, features)
    check_groups(groups, label)
    # 007 is a name, and 7 is another.
    called = {*([names] if names else []), *(set(groups) - {label, *features})}
    train = read_table(urls["train"], "train", texts=called)
    asked = (label, names, *groups)
    unread = {} if features else numberings(train, asked)
    train = {name: column for name, column in train.items() if name not in unread}
    # What is a word in one file is one in all: true, 01 and NA are other things where all are such.
    words = {name for name, column in train.items() if _are_words(column)}
    tables = {"train": train}
    for name, url in urls.items():
        if name != "train" and url is not None:
            tables[name] = read_table(url, name, texts=called | words)
    said: list[str] = []
    if "objective" not in tables:
        _check_columns(tables, [label], urls)
        classes = _drawn_classes(tables, wanted)
        tables["train"], tables["objective"] = _hold_out(train, held_out, seed, classes)
        said = notes_of_single_classes(classes, f"The label {label!r}")
    read = features or tuple(name for name in train if name not in groups)
    _check_columns({"train": tables["train"]}, [*groups], urls)  # no other split has to have them
    _check_columns(tables, [label, *read, *([names] if names else [])], urls)
    notes = (*unread.values(), *([] if features else notes_of_nameless_columns(train, asked)))
    return rows_problem(tables, wanted, model, (*notes, *said))


def _drawn_classes(tables: dict[str, dict[str, list[Any]]], wanted: TableColumns) -> list[str]:
    """Return the class of each training row; none if the label is a number."""
    target = wanted.target
    if target is Target.AUTO:
        known = [value for rows in tables.values() for value in rows[wanted.label]]
        target = guessed(known, wanted.label)
    values = tables["train"][wanted.label] if target is Target.CLASS else []
    return [class_name(value) for value in values]


def _and(what: str, *names: str | None) -> str:
    return f" and {what} {', '.join(map(repr, names))}" if any(names) else ""


def rows_problem(
    tables: dict[str, dict[str, list[Any]]],
    wanted: TableColumns,
    model: ModelSettings | str,
    notes: tuple[str, ...] = (),
) -> Problem:
    """Return the columns of each split as a problem; see ``table_problem``.

    Args:
        tables: Split to its columns, ``train`` and ``objective`` among them.
        wanted: Which columns are what.
        model: See ``engine.problems.user_models.model_maker``.
        notes: What people should know of the rows.
    """
    label, target, train = wanted.label, wanted.target, tables["train"]
    columns = [fitted(name, train[name]) for name in _features(train, wanted, notes)]
    if target is Target.AUTO:
        target = guessed([value for rows in tables.values() for value in rows[label]], label)
    classes, spread = labels(train[label], label, target)
    splits = {
        name: Examples(
            _inputs(rows, columns, name), targets(rows[label], label, classes, spread, name)
        )
        for name, rows in tables.items()
    }
    inputs = splits["train"].inputs
    groups, unknown = groups_of({name: train[name] for name in wanted.groups})
    if classes:
        groups |= {label: [class_name(each) for each in train[label]]}
    learned = _classifying(classes) if classes else _predicting(spread[1])
    return Problem(
        model=model_maker(model, (inputs.shape[1],), max(len(classes), 1)),
        bounds=(inputs.amin(0), inputs.amax(0)),
        groups=groups,
        notes=(
            *(*notes, *unknown),
            *(*_numbers_among_words(columns), *_unknown_words(tables, columns)),
            *_told_constants(tables, columns),
        ),
        **splits,
        **_display_parts(tables, wanted, columns),
        **learned,
    )


def _features(
    train: dict[str, list[Any]], wanted: TableColumns, notes: Sequence[str]
) -> tuple[str, ...]:
    """Return the names of the columns that the model reads; the notes say why others are not."""
    label, names, grouped = wanted.label, wanted.names, wanted.groups
    read = wanted.features or tuple(name for name in train if name not in (label, names, *grouped))
    if not read:
        raise DataError(
            f"The table has no column besides the label {label!r}{_and('the names', names)}"
            f"{_and('the groups', *grouped)}, so there is nothing to learn from. Add columns of "
            f"{' '.join(('features.', *notes))}",
            settings=("arguments.features", "arguments.label"),
        )
    return read


def _inputs(rows: dict[str, list[Any]], columns: list[Column], split: str) -> Tensor:
    """Return the inputs of the model for a split, shape (rows, numbers)."""
    numbers = np.hstack([each.numbers(rows[each.name], split) for each in columns])
    return torch.from_numpy(numbers).to(torch.get_default_dtype())


def _display_parts(
    tables: dict[str, dict[str, list[Any]]], wanted: TableColumns, columns: list[Column]
) -> dict[str, Any]:
    """Return the parts of a problem that say how its rows are called and shown."""
    label, names = wanted.label, wanted.names
    called = {name: _row_names(rows[names]) if names else [] for name, rows in tables.items()}

    def show(split: str, place: int) -> dict[str, Any]:
        rows = tables[split]
        beside = [name for name in wanted.groups if name != label and name in rows]
        return {n: rows[n][place] for n in (*(each.name for each in columns), *beside, label)}

    return {
        "names": called.pop("train") or None,
        "show": lambda place: show("train", place),
        "held_out_names": {name: each for name, each in called.items() if each},
        "show_held_out": show,
        "show_inputs": lambda row: _row_in_words(row, columns),
    }


def _classifying(classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the parts of a problem whose label is a class."""
    return {
        "loss": per_example_cross_entropy,
        "num_classes": len(classes),
        "classes": classes,
        "score": class_scores,
    }


def _predicting(unit: float) -> dict[str, Any]:
    """Return the parts of a problem whose label is a number, of which one unit is its spread."""
    return {
        "loss": squared_error,
        "metrics": {"absolute_error": lambda model, batch: _error(model, batch).abs() * unit},
    }


def _numbers_among_words(columns: Sequence[Column]) -> list[str]:
    """Say which columns are read as words of which most are numbers, or two look the same."""
    said: list[str] = []
    for column in columns:
        said += told_alike(column.words, f"The column {column.name!r}")
        words = [word for word in column.words if not math.isfinite(number(word.strip()))]
        if words and 2 * len(words) < len(column.words):
            shown = ", ".join(map(repr, words[:_SHOWN])) + (", ..." if len(words) > _SHOWN else "")
            said.append(
                f"The column {column.name!r} is read as words, because of {shown}; the rest of it "
                "are numbers."
            )
        elif column.words and sum(map(are_marked, words)) > len(column.words) / 2:
            said.append(
                f"The column {column.name!r} is read as words, though most look like numbers, e.g. "
                f"{next(filter(are_marked, words))!r}. Written without marks of thousands, "
                "currencies or shares they are numbers."
            )
    return said


def _are_words(column: Sequence[Any]) -> bool:
    known = [value for value in column if not is_missing(value)]
    return bool(known) and all(isinstance(value, str) for value in known)


def _row_names(values: Sequence[Any]) -> list[str]:
    """Return the names of the rows; a row without one is named by its place."""
    return [
        f"row {place}" if is_missing(value) else str(value)
        for place, value in enumerate(values, start=1)
    ]


def _check_features(label: str, features: Sequence[str]) -> None:
    """Refuse features that hold the answer, or a column that counts twice."""
    if label in features:
        raise DataError(
            f"arguments.features has the label {label!r}, so the model would read what it is to "
            "tell. Leave it out."
        )
    twice = next((name for name in features if features.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"arguments.features has {twice!r} twice. Name each column once.")


def _unknown_words(tables: dict[str, dict[str, list[Any]]], columns: Sequence[Column]) -> list[str]:
    """Say which words held-out rows have and no training row; the model reads none there."""
    said = []
    for split, rows in tables.items():
        for column in columns:
            words = {str(value) for value in rows[column.name] if not is_missing(value)}
            unknown = sorted(words.difference(column.words)) if column.words else []
            if unknown:
                shown = ", ".join(map(repr, unknown[:_SHOWN]))
                shown += ", ..." if len(unknown) > _SHOWN else ""
                said.append(
                    f"The column {column.name!r} of the {split} rows has {len(unknown)} words that "
                    f"no training row has, and that the model cannot tell apart: {shown}."
                )
    return said


def _told_constants(
    tables: dict[str, dict[str, list[Any]]], columns: Sequence[Column]
) -> list[str]:
    """Say which columns are one number in all training rows, and another in held-out ones.

    Training cannot change what the model makes of such a column, which it has drawn at random.
    """
    said = []
    for split, rows in tables.items():
        for column in columns:
            others = {
                value
                for value in ([] if column.words or column.varies else rows[column.name])
                if not is_missing(value) and number(value) != column.mean
            }
            if others:
                said.append(
                    f"The column {column.name!r} is {column.in_words([0.0, 0.0])} in every "
                    f"training row and another number in {split} rows, e.g. {min(others)!r}. "
                    "Training says nothing of it: leave it out of arguments.features."
                )
    return said


def _row_in_words(row: Tensor, columns: Sequence[Column]) -> dict[str, str]:
    """Return a row of inputs by the names of its columns, in their own units."""
    parts = row.to(torch.float64).split([each.width for each in columns])
    return {
        each.name: each.in_words(part.tolist()) for each, part in zip(columns, parts, strict=True)
    }


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the squared error of each row, shape (batch,), in units of the label's spread."""
    return _error(model, batch).square()


def _error(model: nn.Module, batch: Batch) -> Tensor:
    inputs, target = batch
    return model(inputs).squeeze(1) - target


def _hold_out(
    rows: dict[str, list[Any]], share: float, seed: int, classes: Sequence[str]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    total = len(next(iter(rows.values()), []))
    parts = held_out_places(total, share, seed, classes)
    if not parts[1]:
        raise DataError(
            f"The table has {total} rows, too few to hold any out and keep one of every class to "
            "train on. Give more rows."
        )
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
