"""Reads Parquet and npz files, and refuses those that unpack to far more than honest files do.

A kilobyte of Parquet may stand for a billion rows, and one of npz for terabytes of zeros. What they
unpack to is bounded as for compressed files, see ``engine.storage.content``.
"""

import io
import zipfile
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.storage.content import BOMB_BYTES, BOMB_RATIO

_ROWS = 4096
"""Rows that are unpacked before their size is checked."""

_CELL = 8
"""Bytes that a value takes at the least, once it is one of Python's."""


def npz_arrays(content: bytes, what: str) -> dict[str, Any]:
    """Return the arrays of an npz file, and as bytes what else is in one; pickles are neither.

    Args:
        content: The whole file.
        what: As it is called in messages, e.g. "The table x.npz".

    Raises:
        DataError: If it unpacks to far more than honest files do, or names an array twice.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check(sum(each.file_size for each in archive.infolist()), content, what)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        refuse_twice(stored.files, what)
        return {key: _array(stored, key, what) for key in stored.files}


def _array(stored: Any, key: str, what: str) -> Any:  # noqa: ANN401 (of an archive)
    try:
        return stored[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{what} has Python objects under {key!r}, which are pickles and not read. Store "
            "numbers, or texts with dtype=str."
        ) from error


def parquet_columns(content: bytes, what: str) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file as lists of Python values.

    Args:
        content: The whole file.
        what: As it is called in messages.

    Raises:
        DataError: If it unpacks to far more than honest files do, or names a column twice.
    """
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    schema = parquet.read_schema(arrow.BufferReader(content))
    words = [each.name for each in schema if _is_text(arrow, each.type)]
    file = parquet.ParquetFile(arrow.BufferReader(content), read_dictionary=words)
    _check(_CELL * file.metadata.num_rows * file.metadata.num_columns, content, what)
    names = file.schema_arrow.names
    refuse_twice(names, what)
    columns: list[list[Any]] = [[] for _ in names]
    size = 0
    for batch in file.iter_batches(batch_size=_ROWS):
        for values, column in zip(columns, batch.columns, strict=True):
            is_coded = arrow.types.is_dictionary(column.type)
            size += (column.indices if is_coded else column).nbytes
            _check(size, content, what)
            values.extend(_decoded(column) if is_coded else column.to_pylist())
    return {
        name: _texts(column) if _is_bytes(arrow, kind) else column
        for name, column, kind in zip(names, columns, file.schema_arrow.types, strict=True)
    }


def refuse_twice(names: Iterable[str], what: str) -> None:
    """Refuse a name that stands twice: one of the two columns would be lost."""
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise DataError(
            f"{what} has several columns {twice!r}, and all but one of them would be ignored. "
            "Rename or remove them."
        )


def _is_text(arrow: Any, kind: Any) -> bool:  # noqa: ANN401 (of pyarrow)
    tests = ("is_string", "is_large_string", "is_binary", "is_large_binary")
    return any(getattr(arrow.types, test)(kind) for test in tests)


def _decoded(column: Any) -> list[Any]:  # noqa: ANN401 (of pyarrow)
    """Return the values of a column that names each once: a repeated word is one object."""
    words = column.dictionary.to_pylist()
    return [None if place is None else words[place] for place in column.indices.to_pylist()]


def _is_bytes(arrow: Any, kind: Any) -> bool:  # noqa: ANN401 (of pyarrow)
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    tests = ("is_binary", "is_large_binary", "is_fixed_size_binary")
    return any(getattr(arrow.types, test)(kind) for test in tests)


def _texts(words: list[Any]) -> list[Any]:
    """Return words that were written as bytes, as some writers of Parquet do, as texts."""
    try:
        return [word.decode() if isinstance(word, bytes) else word for word in words]
    except UnicodeDecodeError:
        return words  # such as pictures


def check_groups(metadata: Any, what: str) -> None:  # noqa: ANN401 (of pyarrow)
    """Refuse a Parquet file with a part that unpacks to far more than honest ones do.

    Args:
        metadata: Of the file.
        what: As it is called in messages.

    Raises:
        DataError: If there is one.
    """
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            size, packed = column.total_uncompressed_size, column.total_compressed_size
            if size > max(BOMB_BYTES, BOMB_RATIO * packed):
                raise _bomb(what)


def _check(size: int, content: bytes, what: str) -> None:
    if size > max(BOMB_BYTES, BOMB_RATIO * len(content)):
        raise _bomb(what)


def _bomb(what: str) -> DataError:
    return DataError(
        f"{what} unpacks to over {BOMB_RATIO} times its size, which is how files look that are "
        "made to fill memories. If it is an honest one, save it without compression."
    )
