"""Cells of CSV files, which are opened in spreadsheets."""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with in some spreadsheet, in wide letters too."""


def safe_cell(value: Any) -> Any:  # noqa: ANN401 (a value of any column)
    """Return a value as CSV has it: a text from outside must not be run where it is opened."""
    if isinstance(value, str) and value.lstrip(" \ufeff").startswith(_FORMULA):
        return f"'{value}"
    return value
