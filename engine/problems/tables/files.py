"""Tables in files of CSV, Parquet and npz, as columns of Python values."""

import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from engine.errors import ConfigurationError, DataError
from engine.extras import install
from engine.problems.data.bounded import npz_arrays, parquet_columns, refuse_twice
from engine.problems.tables.dialect import (
    check_quotes,
    decimal_commas,
    found_separator,
    refuse_json,
    whole_numbers,
    without_said,
)
from engine.storage.content import BOMB_BYTES, BOMB_RATIO, decoded, unpacked
from engine.storage.reading import read_data

_FINE = ("ns", "ps", "fs", "as")

_MOST_AT_ONCE = 2**31 - 1
"""Most bytes of a block of pyarrow's."""

_HUGE = 2.0**53
"""Beyond it, whole numbers have more digits than a float holds."""

_COLUMN = 2**13
"""Bytes that pyarrow takes for a column of CSV, whatever is in it."""


def read_table(
    url: str, name: str, *, texts: bool | Collection[str] = False
) -> dict[str, list[Any]]:
    """Return the columns of a file, as lists of Python values.

    What the file is, also whether it is compressed, is seen by its content. CSV is text in UTF-8,
    or as its mark of byte order says, with columns separated by what its first line has most of: a
    comma, a semicolon, a tab or a bar; or by what a line such as ``sep=;`` before it says.

    Args:
        url: Path or fsspec URL.
        name: The split that it is of, for messages.
        texts: Whether cells of CSV stay the texts that they are, numbers and dates too; or the
            columns of which they do.

    Raises:
        DataError: If it cannot be read, names a column twice, or is no table.
        ConfigurationError: If the package that reads it is missing.
    """
    what = f"The table {url} of the {name} rows"
    content = unpacked(read_data(what, url, "Correct the path."), what)
    if content[:6] == b"\x93NUMPY":
        raise DataError(
            f"{what} is one array of NumPy, whose columns have no names. Save the columns with "
            "numpy.savez(FILE, x=..., y=...)."
        )
    try:
        if content[:4] == b"PK\x03\x04":
            return _named(_arrays(content, what), what)
        arrow = _arrow(what)
        if content[:4] == b"PAR1":
            return _named(parquet_columns(content, what), what)
        return _csv(decoded(content, what), arrow, what, texts)
    except (DataError, ConfigurationError):
        raise
    except Exception as error:  # of any of three libraries
        raise DataError(
            f"{what} cannot be read as CSV, Parquet or npz ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Repair the file, "
            "or save it in one of these formats."
        ) from error


def column_name(name: str) -> str:
    """Return the name of a column in the one form of Unicode in which it is looked up."""
    return unicodedata.normalize("NFC", name)


def _named(columns: dict[str, list[Any]], what: str) -> dict[str, list[Any]]:
    """Return columns by their names in one form of Unicode; two that look the same are refused."""
    names = [column_name(name) for name in columns]
    refuse_twice(names, what)
    return dict(zip(names, columns.values(), strict=True))


def _csv(text: str, arrow: Any, what: str, texts: bool | Collection[str]) -> dict[str, list[Any]]:  # noqa: ANN401 (a module)
    library = import_module("pyarrow.csv")
    refuse_json(text, what)
    text, said = without_said(text, what)
    separator = said or found_separator(text)
    check_quotes(text, separator, what)
    _check_width(text, separator, what)
    parsed = library.ParseOptions(delimiter=separator, newlines_in_values=True)
    content = text.encode()
    # In one block: what a column holds is seen by all of its cells, and a cell may be long.
    whole = library.ReadOptions(block_size=min(len(content) + 1, _MOST_AT_ONCE), use_threads=False)

    def read(names: Collection[str] = ()) -> Any:  # noqa: ANN401 (a table of pyarrow)
        kinds = dict.fromkeys(names, arrow.string())
        converted = library.ConvertOptions(column_types=kinds, include_columns=[*names])
        return library.read_csv(
            arrow.BufferReader(content),
            read_options=whole,
            parse_options=parsed,
            convert_options=converted,
        )

    table = read()
    names = [column_name(name.strip()) for name in table.column_names]
    refuse_twice(names, what)
    found = dict(zip(names, table.to_pydict().values(), strict=True))
    written = dict(zip(names, table.column_names, strict=True))
    asked = names if texts is True else [name for name in names if texts and name in texts]

    def as_written(wanted: Collection[str]) -> dict[str, list[str]]:
        columns = read([written[name] for name in wanted]).columns
        return {name: column.to_pylist() for name, column in zip(wanted, columns, strict=True)}

    if asked:
        found |= as_written(asked)
    rounded = [name for name, cells in found.items() if name not in asked and _are_huge(cells)]
    if rounded:
        found |= whole_numbers(as_written(rounded))
    if separator != "," and texts is not True:
        open_ = {name: column for name, column in found.items() if name not in asked}
        found |= decimal_commas(open_, as_written, what)
    return found


def _are_huge(cells: Sequence[Any]) -> bool:
    """Say whether numbers may be whole ones that pyarrow has rounded, as it does beyond 2**63."""
    return any(isinstance(cell, float) and _HUGE <= abs(cell) < math.inf for cell in cells)


def _check_width(text: str, separator: str, what: str) -> None:
    """Refuse a heading of signs alone: a megabyte of commas is eight gigabytes of columns."""
    columns = len(re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0].split(separator))
    if _COLUMN * columns > max(BOMB_BYTES, BOMB_RATIO * len(text)):
        raise DataError(
            f"{what} has {columns} columns and next to nothing in them. If that is meant, save it "
            "as Parquet or npz."
        )


def _arrow(what: str) -> Any:  # noqa: ANN401 (a module, by name, because it is an extra)
    if find_spec("pyarrow") is None:
        raise ConfigurationError(f"{what} needs the package pyarrow. Run: {install('parquet')}.")
    return import_module("pyarrow")


def _arrays(content: bytes, what: str) -> dict[str, list[Any]]:
    """Return the columns of arrays; one with more axes has a column for each number of a row."""
    found: list[tuple[str, list[Any]]] = []
    for name, array in npz_arrays(content, what).items():
        found += _columns(name, array, what)
    refuse_twice([name for name, _ in found], what)
    lengths = {name: len(column) for name, column in found}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(
            f"{what} has arrays of different lengths ({shown}), but each row is one example of "
            "every column. Store arrays of the same length."
        )
    return dict(found)


def _columns(name: str, array: Any, what: str) -> Sequence[tuple[str, list[Any]]]:  # noqa: ANN401 (of whatever is in an archive)
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"{what} is a ZIP archive with a file {name!r}, and no npz of arrays. Save the table "
            "as CSV, Parquet or npz."
        )
    if array.ndim == 0 or array.dtype.names:
        kind = "one value" if array.ndim == 0 else "records with fields of their own"
        raise DataError(
            f"{what} has {kind} under {name!r}, but a column has one value for each row. Store "
            "each column as an array of its own."
        )
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if (
        array.dtype.kind in "mM"
        and array.dtype.itemsize
        and np.datetime_data(array.dtype)[0] in _FINE
    ):
        array = array.astype(f"{array.dtype.kind}8[us]")  # finer times are no times of Python
    if array.ndim == 1:
        return [(name, array.tolist())]
    rows = array.reshape(len(array), -1)
    return [(f"{name}_{place}", rows[:, place].tolist()) for place in range(rows.shape[1])]
