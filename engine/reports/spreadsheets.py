"""Cells of CSV files, which are opened in spreadsheets."""

import re
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with in some spreadsheet, in wide letters too."""

_BEHIND_A_SEMICOLON = re.compile(r"(;[\s\"']*)(?=[=+@\uff1d\uff0b\uff20]|-[^\s\d])")
"""Where a comma is in numbers, files are cut at semicolons, wherever one stands in a cell."""


def safe_cell(value: Any) -> Any:  # noqa: ANN401 (a value of any column)
    """Return a value as CSV has it: a text from outside must not be run where it is opened."""
    if not isinstance(value, str):
        return value
    value = _BEHIND_A_SEMICOLON.sub(r"\1'", value)
    return f"'{value}" if value.lstrip(" \ufeff").startswith(_FORMULA) else value
