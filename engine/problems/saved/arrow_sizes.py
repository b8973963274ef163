"""Unpacked size of compressed buffers in Arrow's formats, read from a file before it is used.

A library that maps such a file into memory unpacks all of it at once: six kilobytes may stand for
gigabytes. Each compressed buffer begins with its size, and where buffers begin is said by the
message that they belong to, a flatbuffer, of which pyarrow shows the bytes and not the fields.
"""

import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.errors import DataError

_MAGIC = b"ARROW1\0\0"
"""Begins a file; the messages of a stream follow, and a table of contents."""

_DICTIONARY, _RECORDS = 2, 3
"""Kinds of messages that have buffers."""

_DICTIONARIES_FIELD, _RECORDS_FIELD = 2, 3
"""Fields of a file's table of contents, which name its messages."""

_END = 10
"""Last bytes of a file: how long its table of contents is, and ARROW1."""


class _Table:
    """A table of a flatbuffer: where its fields are stands before it."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content, self._place = content, place
        self._fields = place - self._number("<i", place)

    def _number(self, kind: str, place: int) -> int:
        if place < 0:
            raise ValueError("a place before the message")
        return struct.unpack_from(kind, self._content, place)[0]

    def _field(self, number: int) -> int | None:
        """Return where a field lies; None if the table has none."""
        behind = 4 + 2 * number
        if behind + 2 > self._number("<H", self._fields):
            return None
        offset = self._number("<H", self._fields + behind)
        return self._place + offset if offset else None

    def byte(self, number: int) -> int:
        place = self._field(number)
        return 0 if place is None else self._number("<B", place)

    def table(self, number: int) -> "_Table | None":
        place = self._field(number)
        return None if place is None else _Table(self._content, self._target(place))

    def structures(self, number: int, kind: str) -> Iterator[tuple[int, ...]]:
        """Yield the structures of a vector.

        Args:
            number: Number of the field.
            kind: Kind of one structure, as the module struct writes it.
        """
        place = self._field(number)
        if place is None:
            return
        begin = self._target(place)
        size = struct.calcsize(kind) * self._number("<I", begin)
        yield from struct.iter_unpack(kind, self._content[begin + 4 : begin + 4 + size])

    def _target(self, place: int) -> int:
        return place + self._number("<I", place)


def root(content: bytes) -> _Table:
    """Return the outermost table of a flatbuffer."""
    return _Table(content, struct.unpack_from("<I", content)[0])


def unpacked_bytes(path: Path) -> int:
    """Return the bytes that a file of Arrow's stream or file format unpacks to; 0 for any other.

    Raises:
        DataError: If it is one, and damaged, or names parts that are not in order.

    Cost:
        Maps the file, and reads the first bytes of each buffer.
    """
    arrow, ipc = import_module("pyarrow"), import_module("pyarrow.ipc")
    if not path.stat().st_size:
        return 0
    with arrow.memory_map(str(path)) as stream:
        is_file = stream.read(len(_MAGIC)) == _MAGIC
        stream.seek(len(_MAGIC) if is_file else 0)
        sizes: dict[int, int] = {}
        try:
            _note_sizes(ipc, stream, sizes)
            if not is_file:
                return sum(sizes.values())
            return sum(sizes[place] for place in _contents(stream))
        except (arrow.ArrowException, OSError, ValueError, LookupError, struct.error) as error:
            if not sizes and not is_file:  # it is nothing of Arrow's
                return 0
            raise DataError(f"{path} is damaged ({type(error).__name__}). Copy it anew.") from error


def _note_sizes(ipc: Any, stream: Any, sizes: dict[int, int]) -> None:  # noqa: ANN401 (of pyarrow)
    """Note what each message that has buffers unpacks to, by where it begins."""
    reader, begin = ipc.MessageReader.open_stream(stream), stream.tell()
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        size = _size(message)
        if size is not None:
            sizes[begin] = size
        begin = stream.tell()


def _contents(stream: Any) -> Iterator[int]:  # noqa: ANN401 (of pyarrow)
    """Yield where the messages of a file begin that its table of contents names, some twice."""
    end = stream.size() - _END
    stream.seek(end)
    (length,) = struct.unpack_from("<i", stream.read(_END))
    if not 0 < length <= end:
        raise ValueError("no table of contents")
    stream.seek(end - length)
    footer = root(stream.read(length))
    for field in (_DICTIONARIES_FIELD, _RECORDS_FIELD):
        for begin, *_ in footer.structures(field, "<qi4xq"):
            yield begin


def _size(message: Any) -> int | None:  # noqa: ANN401 (of pyarrow)
    """Return the number of bytes that a message's buffers unpack to; None if it has none."""
    header = root(message.metadata.to_pybytes())
    kind, content = header.byte(1), header.table(2)
    if kind == _DICTIONARY and content is not None:
        content = content.table(1)
    if kind not in (_DICTIONARY, _RECORDS) or content is None:
        return None
    body, size = message.body, 0
    is_packed = content.table(3) is not None
    for begin, length in content.structures(2, "<qq"):
        if is_packed and length >= 8:
            (unpacked,) = struct.unpack("<q", body.slice(begin, 8).to_pybytes())
            size += length - 8 if unpacked < 0 else unpacked  # -1: it was not worth packing
        else:
            size += length
    return size
