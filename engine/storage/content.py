"""Kind of a file by its first bytes, whatever its name: compressed, an archive, a text.

Files of data come from anywhere, so what they unpack to is bounded, and each way in which they can
be damaged ends in a ``DataError`` that names them.
"""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from engine.errors import DataError, EngineError

HEAD = 512
"""Bytes of a file that say what it is."""

LAYERS = 2
"""How often a file may have been compressed."""

BOMB_BYTES, BOMB_RATIO = 2**28, 200
"""A file that unpacks to more than this, and to so many times its own size, is no honest one."""

_PIECE = 2**22

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}

_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")

_OTHERS = {
    b"PK\x03\x04": "a ZIP archive",
    b"PK\x05\x06": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"\x7fELF": "a program",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
}

_BOMS = (  # the longer ones first: that of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def compression(head: bytes) -> str | None:
    """Return by what a file is compressed; None if it is not."""
    name = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
    # Three letters may begin a text, too.
    return None if name == "bzip2" and head[4:10] not in _BZIP2_BLOCKS else name


def is_tar(head: bytes) -> bool:
    """Say whether a file begins as a tar archive does, of any age."""
    if head[257:262] == b"ustar":
        return True
    if len(head) < HEAD or not head[:1].strip(b"\0"):
        return False
    try:  # the oldest kind has a checksum and no mark
        stated = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return stated == sum(head[:148]) + 8 * 32 + sum(head[156:HEAD])


def kind_of(head: bytes) -> str | None:
    """Return the format of a file that is no text, in words; None if it may be text."""
    name = compression(head)
    if name is not None:
        return f"compressed by {name}"
    if is_tar(head):
        return "a tar archive"
    return next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), None)


def unpacked(content: bytes, place: str, limit: int | None = None) -> bytes:
    """Return a file's content, unpacked if it is compressed.

    Args:
        content: The whole file.
        place: Name of the content in messages.
        limit: Return so many bytes only, which need not be the whole.

    Raises:
        DataError: If it is damaged, cut off, packed in more than two layers, or unpacks to far
            more than honest files do.
    """
    for _ in range(LAYERS):
        name = compression(content)
        if name is None:
            return content
        content = _unpack(content, name, place, limit)
    if compression(content) is not None:
        raise DataError(
            f"{place} is compressed more than {LAYERS} times over. Unpack it, and point at the "
            "result."
        )
    return content


def _unpack(content: bytes, name: str, place: str, limit: int | None) -> bytes:
    most = max(BOMB_BYTES, BOMB_RATIO * len(content)) if limit is None else limit
    made = io.BytesIO()
    try:
        with _OPENERS[name](io.BytesIO(content)) as stream:
            while made.tell() <= most and (piece := stream.read(min(_PIECE, most + 1))):
                made.write(piece)
    except EngineError:
        raise
    except Exception as error:  # each library has errors of its own, and EOFError is none of them
        if limit is None or not made.tell():
            raise _damaged(place, name, error) from error
    if limit is None and made.tell() > most:
        raise DataError(
            f"{place} unpacks to more than {most} bytes, over {BOMB_RATIO} times its size, which "
            "is how files look that are made to fill memories. If it is an honest one, unpack it "
            "and point at the result."
        )
    return made.getvalue()[:limit]


def unpacked_pieces(content: bytes, place: str) -> Iterator[bytes]:
    """Yield what a compressed file unpacks to, piece by piece, for whoever needs not keep it.

    Args:
        content: The whole file, compressed by one of the ways that ``compression`` knows.
        place: Name of the content in messages.

    Raises:
        DataError: If it is damaged or cut off.
    """
    name = compression(content)
    assert name is not None  # whoever asks has looked
    try:
        with _OPENERS[name](io.BytesIO(content)) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except EngineError:
        raise
    except Exception as error:  # as in _unpack
        raise _damaged(place, name, error) from error


def _damaged(place: str, name: str, error: Exception) -> DataError:
    reason = str(error).rstrip(".") or type(error).__name__
    return DataError(
        f"{place} is cut off or damaged: its {name} stream cannot be unpacked ({reason}). "
        "Copy it anew."
    )


def _open_zstandard(stream: io.BytesIO) -> Any:  # noqa: ANN401 (a stream of one of three libraries)
    """Open by Python's own library (3.14), or by a package that some have anyway."""
    if find_spec("compression") is not None:
        return import_module("compression.zstd").open(stream, "rb")
    if find_spec("zstandard") is not None:
        return (
            import_module("zstandard")
            .ZstdDecompressor()
            .stream_reader(stream, read_across_frames=True)
        )
    if find_spec("pyarrow") is not None:
        return import_module("pyarrow").CompressedInputStream(stream, "zstd")
    raise DataError(
        "The file is compressed by Zstandard, for which Python before 3.14 needs the package "
        "zstandard or pyarrow. Install one, or compress it by gzip."
    )


_OPENERS: dict[str, Callable[[io.BytesIO], Any]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "Zstandard": _open_zstandard,
}


def decoded(content: bytes, place: str) -> str:
    """Return a text, read as its mark of byte order says, else as UTF-8.

    Raises:
        DataError: If it is not that, with the place where it is not.
    """
    head = content[:HEAD]
    kind = kind_of(head)
    if kind is not None and not _is_printable(head):
        raise DataError(
            f"{place} is {kind}, and no text in UTF-8, for which it is read. Export what it holds "
            "as text, or point at another file."
        )
    encoding = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if encoding is None and (guess := _without_mark(content)) is not None:
        raise DataError(
            f"{place} is no text in UTF-8 but looks like {guess} without a mark of its byte "
            f"order. Convert it: iconv -f {guess} -t UTF-8."
        )
    try:
        return content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{place} is not text in {(encoding or 'utf-8').upper()}: byte {error.start}, on line "
            f"{line}, is none ({error.reason}). Convert it, e.g. with iconv."
        ) from error


def _is_printable(head: bytes) -> bool:
    """Say whether a file begins as texts do; some marks of other files are words."""
    return (
        all(byte >= 32 or byte in b"\t\n\f\r" for byte in head)
        and b"\x7f" not in head
        and (max(head, default=0) < 128)
    )


def _without_mark(content: bytes) -> str | None:
    """Name the encoding of a text whose characters have two bytes, one of them zero."""
    head = content[: 2 * HEAD]
    even, odd = head[::2], head[1::2]
    for zeros, others, name in ((odd, even, "UTF-16LE"), (even, odd, "UTF-16BE")):
        if len(zeros) >= 4 and zeros.count(0) > 0.9 * len(zeros) and others.count(0) == 0:
            return name
    return None
