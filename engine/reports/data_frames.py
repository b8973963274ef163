"""Rows for notebooks: a DataFrame where pandas is installed, else a list of dictionaries."""

import csv
import io
from importlib import import_module
from importlib.util import find_spec
from typing import Any

Rows = list[dict[str, Any]]


def as_table(rows: Rows) -> Any:  # noqa: ANN401 (depends on what is installed)
    """Return rows as a DataFrame where pandas is installed, else as they are."""
    return import_module("pandas").DataFrame(rows) if find_spec("pandas") else rows


def read_csv(text: str) -> Rows:
    """Return the rows of a CSV file; a column of whole numbers, numbers or truth values is such."""
    lines = list(csv.DictReader(io.StringIO(text)))
    if not lines:
        return []
    columns = {name: _typed([line[name] for line in lines]) for name in lines[0]}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _typed(values: list[str]) -> list[Any]:
    for read in (int, float, {"True": True, "False": False}.__getitem__):
        try:
            return [read(value) for value in values]
        except (ValueError, KeyError):
            continue
    return values
