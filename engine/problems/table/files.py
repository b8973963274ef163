"""Tables in files of CSV, Parquet and npz, as columns of Python values."""

import csv
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from engine.errors import ConfigurationError, DataError
from engine.extras import install
from engine.problems.bounded import npz_arrays, parquet_columns, refuse_twice
from engine.storage.content import decoded, unpacked
from engine.storage.reading import read_data

_SEPARATORS = (",", ";", "\t")
_DECIMAL_COMMA = re.compile(r"(?:^|;)\s*\"?-?\d+,\d+\"?\s*(?:;|$)", re.MULTILINE)
"""A number as it is written where a semicolon separates columns, because a comma is in numbers."""


def read_table(url: str, name: str, *, texts: bool = False) -> dict[str, list[Any]]:
    """Return the columns of a file, as lists of Python values.

    What the file is, also whether it is compressed, is seen by its content. CSV is text in UTF-8,
    or as its mark of byte order says, with columns separated by a comma, a semicolon or a tab.

    Args:
        url: Path or fsspec URL.
        name: The split that it is of, for messages.
        texts: Whether cells of CSV stay the texts that they are, numbers and dates too.

    Raises:
        DataError: If it cannot be read, names a column twice, or is no table.
        ConfigurationError: If the package that reads it is missing.
    """
    what = f"The table {url} of the {name} rows"
    content = unpacked(read_data(what, url, "Correct the path."), what)
    try:
        if content[:4] == b"PK\x03\x04":
            return _arrays(content, what)
        arrow = _arrow(what)
        if content[:4] == b"PAR1":
            return parquet_columns(content, what)
        table = _csv(decoded(content, what), arrow, texts=texts)
        refuse_twice(table.column_names, what)
        return table.to_pydict()
    except (DataError, ConfigurationError):
        raise
    except Exception as error:  # of any of three libraries
        raise DataError(
            f"{what} cannot be read as CSV, Parquet or npz ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Repair the file, "
            "or save it in one of these formats."
        ) from error


def _csv(text: str, arrow: Any, *, texts: bool) -> Any:  # noqa: ANN401 (modules and tables of pyarrow)
    library = import_module("pyarrow.csv")
    separator = _separator(text)
    comma = separator == ";" and _DECIMAL_COMMA.search(text) is not None
    parsed = library.ParseOptions(delimiter=separator, newlines_in_values=True)
    content = text.encode()

    def read(**options: Any) -> Any:  # noqa: ANN401 (of pyarrow)
        converted = library.ConvertOptions(decimal_point="," if comma else ".", **options)
        return library.read_csv(
            arrow.BufferReader(content), parse_options=parsed, convert_options=converted
        )

    found = read()
    found = found.rename_columns([name.strip() for name in found.column_names])
    if not texts or len(set(found.column_names)) < found.num_columns:
        return found
    written = next(csv.reader(text.lstrip("\r\n").splitlines(), delimiter=separator))
    whole = read(column_types=dict.fromkeys(written, arrow.string()))
    return whole.rename_columns(found.column_names)


def _separator(text: str) -> str:
    """Return what separates columns: of the first line, the comma if there is one."""
    heading = next(iter(text.lstrip("\n\r").splitlines()), "")
    for separator in _SEPARATORS:
        if len(next(csv.reader([heading], delimiter=separator), [])) > 1:
            return separator
    return ","


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
    if array.ndim == 1:
        return [(name, array.tolist())]
    rows = array.reshape(len(array), -1)
    return [(f"{name}_{place}", rows[:, place].tolist()) for place in range(rows.shape[1])]
