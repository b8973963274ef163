"""Columns without a name, which mostly number the rows, and say nothing of them."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from engine.problems.tables.cells import is_missing

_INDEX = re.compile(r"__index_level_\d+__")
"""How pandas calls the columns of Parquet that hold a table's index."""

_NAMELESS = re.compile(r"(Unnamed: \d+(\.\d+)*)?")
"""How columns without a name are called, before and after pandas has read them, once or often."""


def numberings(
    columns: Mapping[str, Sequence[Any]], asked: Collection[str | None]
) -> dict[str, str]:
    """Return the columns that are not read, each with why: a sentence.

    They are those that pandas or R has written to number the rows, which may have been drawn or
    shuffled since, and those of no cells. Both programs write them without a name; a table that was
    read and written again has ``Unnamed: 0``, and one that was so twice ``Unnamed: 0.1``.

    Args:
        columns: Name to cells.
        asked: Columns that are something else: the label, names and groups.
    """
    return {
        name: why
        for name, cells in columns.items()
        if name not in asked and (why := _why_unread(name, cells))
    }


def notes_of_nameless_columns(
    columns: Mapping[str, Sequence[Any]], asked: Collection[str | None]
) -> list[str]:
    """Say which columns without a name are read, though they may number the rows.

    Two tables that were put together count their rows twice, and one that was drawn with
    replacement repeats them. Other whole numbers look the same.

    Args:
        columns: Name to cells, without those that are not read.
        asked: Columns that are something else.
    """
    return [
        f"The column {name!r} has no name, and its whole numbers are read as a feature. If they "
        "number the rows, name the other columns in arguments.features."
        for name in _nameless(columns, asked)
        if all(type(cell) is int for cell in columns[name])
    ]


def _nameless(columns: Collection[str], asked: Collection[str | None]) -> Iterator[str]:
    return (name for name in columns if name not in asked and _NAMELESS.fullmatch(name))


def _why_unread(name: str, cells: Sequence[Any]) -> str | None:
    if _INDEX.fullmatch(name):
        return f"The column {name!r} is an index of pandas, and is not read."
    if not _NAMELESS.fullmatch(name):
        return None
    if all(map(is_missing, cells)):
        return f"The column {name!r} has no cells, and is not read."
    if not _counts(cells):
        return None
    return (
        f"The column {name!r} has no name and another whole number in each row, as pandas and R "
        "number rows, and is not read. If it says something else, give it a name, or name it in "
        "arguments.features."
    )


def _counts(cells: Sequence[Any]) -> bool:
    """Say whether cells are numbers of rows, each another one."""
    return all(type(cell) is int and cell >= 0 for cell in cells) and len(set(cells)) == len(cells)
