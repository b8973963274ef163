"""The dialect of a CSV file: the separator of its columns, quotation marks and decimal marks."""

import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from engine.errors import DataError

SEPARATORS = (",", ";", "\t", "|")

_NUMBER = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?(?:[eE][+-]?\d+)?")
"""A number with a decimal comma, and with points between its thousands or without."""

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,400}\s*")
"""A whole number, of no more digits than the largest number to compute with has."""

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+")
"""A number that is a fraction where points are decimal, and whole where they part thousands."""


_SAID = re.compile(r'\A\s*"?sep=(.)"?[,;\t|]*(?=\r|\n|\Z)', re.IGNORECASE)
"""The line before the heading by which spreadsheets tell each other the separator."""


def refuse_json(text: str, what: str) -> None:
    """Refuse JSON, which would be a table with strange names for columns.

    Args:
        text: The whole file.
        what: As it is called in messages.

    Raises:
        DataError: If its first line is a record or a list of JSON, or begins one.
    """
    first = text.lstrip()[:_LONGEST].partition("\n")[0].strip()
    if first[:1] not in ("{", "["):
        return
    if first not in ("{", "[", "[{"):
        try:
            json.loads(first.rstrip(","))
        except (ValueError, RecursionError):
            return
    raise DataError(
        f"{what} is JSON and no table. Save it as CSV or Parquet, e.g. with pandas: "
        "read_json(FILE, lines=True).to_parquet(OTHER), without lines=True if it is one list."
    )


_LONGEST = 2**20
"""Characters of a first line that are looked at."""


def without_said(text: str, what: str) -> tuple[str, str | None]:
    """Return a text without a first line such as ``sep=;``, and the separator that it names.

    Args:
        text: The whole file.
        what: As it is called in messages.

    Returns:
        The text with an empty line in its place, so that lines have their numbers; and None where
        there is no such line.

    Raises:
        DataError: If it names what separates no columns here.
    """
    said = _SAID.match(text)
    if said is None:
        return text, None
    if said[1] not in SEPARATORS:
        raise DataError(
            f"{what} says that its columns are separated by {said[1]!r}. Save it with one of a "
            "comma, a semicolon, a tab and a bar."
        )
    return text[said.end() :], said[1]


def found_separator(text: str) -> str:
    """Return the separator of columns: the one that makes the most of them in the first line."""
    heading = re.split(r"[\r\n]", text.lstrip("\n\r"), maxsplit=1)[0]
    bare = re.sub(r'"[^"]*"?', "", heading)
    return max(SEPARATORS, key=bare.count)  # the first of equals


def check_quotes(text: str, separator: str, what: str) -> None:
    """Refuse a quotation mark that is never closed, so that the rows after it belong to its cell.

    Args:
        text: The whole file.
        separator: What separates its columns.
        what: As the file is called in messages.

    Raises:
        DataError: If it is refused; names the line on which the cell begins.
    """
    sign = re.escape(separator)
    cell = re.compile(rf'(?:\A|(?<=[{sign}\r\n]))"((?:[^"]++|"")*+)("?)(?=(.?))', re.DOTALL)
    for found in cell.finditer(text):
        ends = found[2] and found[3] in ("", separator, "\r", "\n")
        if not ends and (not found[2] or "\n" in found[1] or "\r" in found[1]):
            line = text.count("\n", 0, found.start()) + 1
            raise DataError(
                f"{what} has a cell on line {line} that begins with a quotation mark and goes on "
                "over the lines after it, where no mark ends it. Close it, or write each quotation "
                "mark in a cell twice and the cell between two."
            )


def decimal_commas(
    columns: dict[str, list[Any]],
    as_written: Callable[[Collection[str]], dict[str, list[str]]],
    what: str,
) -> dict[str, list[Any]]:
    """Return the columns whose numbers have decimal commas, as numbers.

    Args:
        columns: What was read, with points for decimals.
        as_written: Reads columns again, as texts.
        what: As the file is called in messages.

    Raises:
        DataError: If a column may hold fractions or thousands.
    """
    found = {name: _fractions(cells) for name, cells in columns.items() if _has_commas(cells)}
    pointed = [
        name for name, cells in columns.items() if any(isinstance(each, float) for each in cells)
    ]
    if not found or not pointed:
        return found
    for name, cells in as_written(pointed).items():
        written = [each for each in cells if each]
        if all(_THOUSANDS.fullmatch(each) for each in written):
            raise DataError(
                f"{what} has decimal commas in {next(iter(found))!r}, and numbers such as "
                f"{written[0]} in {name!r}, which may be thousands or a fraction. Write them all "
                "with decimal points, or without points between thousands."
            )
    return found


def whole_numbers(columns: dict[str, list[str]]) -> dict[str, list[int | None]]:
    """Return the columns whose cells are whole numbers or empty, to the last digit.

    Args:
        columns: Cells as they are written.
    """
    return {
        name: [int(cell) if cell else None for cell in cells]
        for name, cells in columns.items()
        if all(not cell or _WHOLE.fullmatch(cell) for cell in cells)
    }


def _has_commas(cells: Sequence[Any]) -> bool:
    known = [each for each in cells if each not in (None, "")]
    return (
        bool(known)
        and all(isinstance(each, str) for each in known)
        and any("," in each for each in known)
        and all(_NUMBER.fullmatch(each.strip()) for each in known)
    )


def _fractions(cells: Sequence[str | None]) -> list[float | None]:
    return [
        float(each.strip().replace(".", "").replace(",", ".")) if each else None for each in cells
    ]
