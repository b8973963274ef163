"""Objects of JSON in a text: one a line, an array of them, or one after the other.

Whether a text is JSON is told by its beginning, whatever the name of its file. Text that looks like
JSON is read as JSON or refused, and never taken for plain text to be learned.
"""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from engine.errors import DataError

ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonlines")
"""How files are called that are meant to be JSON."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".zstd")

_SPACE = re.compile(r"[\s\ufeff\x1e]*")  # \x1e begins each record of a JSON text sequence
_BEGINNING = re.compile(
    r"""[\s\ufeff\x1e]*(\[\s*)*\{\s*("[^"\n]*"\s*:|'[^'\n]*'\s*:|\}\s*($|[,\]\n]))"""
)
_LINE = re.compile(
    r"""([\[\]{},\s]++$|\[?\s*\{\s*("[^"]*"|'[^']*')\s*:|"[^"]*"\s*:\s*["\d\[{tfn-]|\[\s*")"""
)
"""A line of objects, or of an object that is spread over several, without the space before it.

Two patterns of space behind each other would be tried in every way to share what is there: hours
for a line of a megabyte.
"""

_DIGITS = 100


def stem(url: str) -> str:
    """Return a file's name without its folder, its ending and that of its compression."""
    return PurePosixPath(without_compression(url)).stem


def without_compression(url: str) -> str:
    """Return a file's name without the ending that says how it is compressed."""
    ending = next((each for each in COMPRESSIONS if url.lower().endswith(each)), "")
    return url[: len(url) - len(ending)]


def holds_json(text: str, url: str) -> bool:
    """Say whether a text is JSON, or is meant to be: by its beginning, its lines or its name."""
    if without_compression(url).lower().endswith(ENDINGS) or _BEGINNING.match(text):
        return True
    stripped = text.strip("\ufeff \t\n")
    if stripped.startswith(("[", "{", '"')) and _is_json(stripped):
        return True
    # A heading, or a line of another kind, may stand before objects or between them.
    lines = [line for line in text.split("\n") if line.strip()]
    return 0 < len(lines) <= 2 * sum(_LINE.match(_bare(line)) is not None for line in lines)


def _bare(line: str) -> str:
    found = _SPACE.match(line)
    return line[found.end() :] if found else line


def read_json(text: str, url: str) -> Iterator[tuple[int, Any]]:
    """Yield the values of a text with the line on which each begins; those of an array one by one.

    Raises:
        DataError: If it is not JSON, with the line, or names a field twice in one object.
    """
    breaks = [found.start() for found in re.finditer("\n", text)]
    place = _next(text, 0)
    while place < len(text):
        if text[place] == "[":
            place = yield from _array(text, place, url, breaks)
        else:
            line = bisect_right(breaks, place) + 1
            value, place = _decode(text, place, url, line)
            yield line, value
        place = _next(text, place)


def _array(text: str, place: int, url: str, breaks: list[int]) -> Iterator[tuple[int, Any]]:
    """Yield the values of an array; return the place behind it."""
    first = bisect_right(breaks, place) + 1
    place = _next(text, place + 1)
    while text[place : place + 1] != "]":
        line = bisect_right(breaks, place) + 1
        value, place = _decode(text, place, url, line)
        yield line, value
        place = _next(text, place)
        follows = text[place : place + 1]
        if follows not in (",", "]"):
            line = bisect_right(breaks, place) + 1
            found = repr(follows) if follows else "the end of the file"
            raise DataError(
                f"Line {line} of {url} is not JSON: in the array that begins on line {first}, "
                f"{found} stands where a comma or a bracket is due. It may be cut off. Write one "
                "object a line, and nothing else."
            )
        if follows == ",":
            place = _next(text, place + 1)
    return place + 1


def _next(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _decode(text: str, place: int, url: str, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        raise DataError(
            f"Line {line} of {url} is not JSON ({error.msg}, line {error.lineno}, column "
            f"{error.colno}). Write one object a line, and nothing else."
        ) from error
    except RecursionError as error:
        raise DataError(
            f"Line {line} of {url} holds values within values that go too deep to be read. Leave "
            "those fields out; prompt and completion are texts."
        ) from error
    except _TwiceError as error:
        raise DataError(
            f"The object on line {line} of {url} has the field {error.args[0]!r} twice, so nobody "
            "knows which one is meant. Remove one."
        ) from error


class _TwiceError(Exception):
    """A field is there twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _whole(digits: str) -> int | float:
    """Return a whole number; Python refuses very long ones, and no field of ours is a number."""
    return int(digits) if len(digits) < _DIGITS else math.inf


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    except _TwiceError:
        return True
    return True


def check_characters(text: str, name: str, place: str) -> None:
    """Refuse halves of characters, which JSON can write and no text can hold.

    Args:
        text: What was read.
        name: Name of its field.
        place: Where it stands, for people.

    Raises:
        DataError: Names the field and the half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"{place} has {half} in its {name}, which is half of a character, as is left where an "
            "emoji was cut in two. Remove it, or the line."
        ) from error
