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

_LISTS = ("is_list", "is_large_list", "is_fixed_size_list")
_VIEWS = ("is_list_view", "is_large_list_view")
_TEXTS = ("is_string", "is_large_string")
_BYTES = ("is_binary", "is_large_binary", "is_fixed_size_binary")


def npz_arrays(content: bytes, what: str) -> dict[str, Any]:
    """Return the arrays of an npz file, and as bytes what else is in one; pickles are neither.

    Args:
        content: The whole file.
        what: As it is called in messages, e.g. "The table x.npz".

    Raises:
        DataError: If it unpacks to far more than honest files do, or names an array twice.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_size(sum(each.file_size for each in archive.infolist()), len(content), what)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        refuse_twice(stored.files, what)
        return {key: _array(stored, key, what, len(content)) for key in stored.files}


def _array(stored: Any, key: str, what: str, packed: int) -> Any:  # noqa: ANN401 (of an archive)
    try:
        array = stored[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{what} has Python objects under {key!r}, which are pickles and not read. Store "
            "numbers, or texts with dtype=str."
        ) from error
    if isinstance(array, np.ndarray) and not array.dtype.itemsize:
        check_size(_CELL * array.size, packed, what)  # of nothing, there may be any number
    return array


def parquet_columns(content: bytes, what: str) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file as lists of Python values.

    Args:
        content: The whole file.
        what: As it is called in messages.

    Raises:
        DataError: If it unpacks to far more than honest files do, or names a column twice.
    """
    arrow = import_module("pyarrow")
    file = open_parquet(arrow.BufferReader(content), what)
    names = file.schema_arrow.names
    refuse_twice(names, what)
    columns: list[list[Any]] = [[] for _ in names]
    size = 0
    for batch in file.iter_batches(batch_size=_ROWS):
        for values, column in zip(columns, batch.columns, strict=True):
            is_coded = arrow.types.is_dictionary(column.type)
            size += column.indices.nbytes if is_coded else python_size(column)
            check_size(size, len(content), what)
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


def _decoded(column: Any) -> list[Any]:  # noqa: ANN401 (of pyarrow)
    """Return the values of a column that names each once: a repeated word is one object."""
    words = column.dictionary.to_pylist()
    return [None if place is None else words[place] for place in column.indices.to_pylist()]


def _is_bytes(arrow: Any, kind: Any) -> bool:  # noqa: ANN401 (of pyarrow)
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    return _is_any(kind, _BYTES)


def _texts(words: list[Any]) -> list[Any]:
    """Return words that were written as bytes, as some writers of Parquet do, as texts."""
    try:
        return [word.decode() if isinstance(word, bytes) else word for word in words]
    except UnicodeDecodeError:
        return words  # such as pictures


def open_parquet(stream: Any, what: str) -> Any:  # noqa: ANN401 (of pyarrow)
    """Open a Parquet file, unless it says of itself that it unpacks to far more than honest ones.

    A list may stand for a billion values in a few bytes, so values are counted, and not rows. Texts
    and bytes are read by name, each once, until it is known how often they are repeated.

    Args:
        stream: What the file is read from, which can be sought in.
        what: As it is called in messages.

    Raises:
        DataError: If it does.
    """
    parquet = import_module("pyarrow.parquet")
    file = parquet.ParquetFile(stream)
    values = packed = 0
    for group in range(file.metadata.num_row_groups):
        for number, part in enumerate(_parts(file)):
            column = file.metadata.row_group(group).column(number)
            check_size(column.total_uncompressed_size, column.total_compressed_size, what)
            values += column.num_values * max(_CELL, part.length)
            packed += column.total_compressed_size
    check_size(values, packed, what)
    named = [each.path for each in _parts(file) if _is_text(each)]
    return parquet.ParquetFile(stream, metadata=file.metadata, read_dictionary=named)


def _parts(file: Any) -> list[Any]:  # noqa: ANN401 (of pyarrow)
    """Return the columns that are stored; one of lists or records is stored in several."""
    return [file.schema.column(number) for number in range(file.metadata.num_columns)]


def _is_text(part: Any) -> bool:  # noqa: ANN401 (of pyarrow)
    return part.physical_type == "BYTE_ARRAY" and part.logical_type.type != "DECIMAL"


def python_size(array: Any) -> int:  # noqa: ANN401 (of pyarrow)
    """Return how many bytes the values of an array take at the least, before they are made.

    Arrow repeats a value without storing it again, in dictionaries, views and lists of nothing;
    Python makes an object of each.

    Args:
        array: Array of pyarrow, chunked or not.
    """
    compute, kind = import_module("pyarrow.compute"), array.type
    if hasattr(array, "chunks"):
        return sum(map(python_size, array.chunks))
    own = _CELL * len(array)
    if _is_any(kind, ("is_dictionary",)):
        if not _is_any(kind.value_type, (*_TEXTS, *_BYTES)):
            return own + python_size(array.dictionary)
        lengths = compute.binary_length(array.dictionary)
        return own + (compute.sum(lengths.take(array.indices)).as_py() or 0)
    if _is_any(kind, ("is_map",)):
        return own + python_size(array.keys) + python_size(array.items)
    if _is_any(kind, _LISTS):
        return own + python_size(array.flatten())
    if _is_any(kind, _VIEWS):  # which may overlap, so they are not laid one behind the other
        return own + _CELL * (compute.sum(compute.list_value_length(array)).as_py() or 0)
    if _is_any(kind, ("is_struct",)):
        return own + sum(map(python_size, array.flatten()))
    if _is_any(kind, ("is_string_view", "is_binary_view")):
        # Sixteen bytes each, of which four say how long it is; Arrow has no function for it.
        views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, 4)[array.offset :]
        return own + int(views[: len(array), 0].sum(dtype=np.int64))
    if _is_any(kind, (*_TEXTS, *_BYTES)):
        return own + (compute.sum(compute.binary_length(array)).as_py() or 0)
    return own + python_size(array.storage) if hasattr(array, "storage") else own


def _is_any(kind: Any, tests: Iterable[str]) -> bool:  # noqa: ANN401 (of pyarrow)
    types = import_module("pyarrow").types
    return any(getattr(types, test)(kind) for test in tests)


def check_size(size: int, packed: int, what: str) -> None:
    """Refuse what is far more than the bytes that it comes in, and more than a memory should lose.

    Args:
        size: Bytes that it unpacks to, at the least.
        packed: Bytes that it comes in.
        what: As it is called in messages.

    Raises:
        DataError: If it is.
    """
    if size > max(BOMB_BYTES, BOMB_RATIO * packed):
        raise DataError(
            f"{what} unpacks to over {BOMB_RATIO} times its size, which is how files look that are "
            "made to fill memories. If it is an honest one, save it without compression."
        )
