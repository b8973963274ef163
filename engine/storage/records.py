"""Records: small JSON documents and other files beside the states, each written in one piece.

A reader finds the old content, the new content or nothing, never a part.

What is read may have been written by anybody who can write to the store, or by another version. So
every document of a store is read here: with a limit for its size and its depth, by its own name and
not as a pattern, and as a model of what it should be (``read_model``).
"""

import errno
import json
import math
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from pydantic import BaseModel, ValidationError

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.storage.location import filesystem, is_local

Model = TypeVar("Model", bound=BaseModel)

LARGEST = 64 << 20
"""Bytes of the largest document; the losses and norms of a long segment take some."""

SMALL = 1 << 20
"""Bytes that documents of a few fields may have."""

UNFORESEEN = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError)
"""What validators of a model may raise besides ValueError when they meet anything at all."""

_DEEPEST = 32
"""Levels of values in one another; ours have up to ten."""

_MOST_VALUES = 4_000_000
"""Values of a document: each takes some 60 bytes of memory, however short it is written."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_AT_ONCE = 256
"""Documents that are read in one go."""


def write_record(url: str, record: dict[str, Any], options: dict[str, Any] | None = None) -> None:
    """Write a JSON document, in place of an older one.

    Raises:
        ConfigurationError: If a value has no JSON form, as NaN and infinities have none.
    """
    write_bytes(url, _encoded(url, record), options)


def create_record(url: str, record: dict[str, Any], options: dict[str, Any] | None = None) -> bool:
    """Write a JSON document if nobody has; of several who try at once, one succeeds.

    Local files are linked into place, S3 is asked for it by ``If-None-Match``. On a filesystem
    whose driver has no exclusive creation, two who try in the same instant may both succeed.

    Returns:
        Whether it was written; False if there was one.

    Raises:
        ConfigurationError: If a value has no JSON form, as NaN and infinities have none.
    """
    content = _encoded(url, record)
    file_system, path = filesystem(url, options)
    try:
        if is_local(file_system):
            with _partial(Path(path), content) as partial:
                os.link(partial, path)  # fails where the target is, unlike a rename
        else:
            file_system.pipe_file(path, content, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if "precondition" in str(error).lower().replace("-", ""):
            return False
        raise
    return True


def _encoded(url: str, record: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(record, indent=2, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"The record for {url} has no JSON form: {error}. "
            "Write tensors as lists, and None where a number is not finite."
        ) from error
    if len(text) >= LARGEST:
        raise ConfigurationError(
            f"The record for {url} has {len(text)} bytes, and at most {LARGEST} are read back. "
            "Use shorter segments.",
            settings=("replay.steps_per_segment",),
        )
    return (text + "\n").encode()


def read_record(
    url: str, options: dict[str, Any] | None = None, *, largest: int = LARGEST
) -> dict[str, Any]:
    """Return the JSON document at a location.

    Args:
        url: The location.
        options: fsspec storage options.
        largest: Bytes that it may have.

    Raises:
        CheckpointMissingError: If there is none.
        CheckpointCorruptError: If it is not a JSON object, or larger or deeper than any of ours.
    """
    file_system, path = filesystem(url, options)
    try:
        content = _cat(file_system, path, largest)
    except _ABSENT as error:
        raise CheckpointMissingError(
            f"There is no record at {url}. Run the stage that writes it first."
        ) from error
    return parse_document(url, content, largest)


def read_model(
    url: str, model: type[Model], options: dict[str, Any] | None = None, *, largest: int = LARGEST
) -> Model:
    """Return the document at a location, validated.

    Raises:
        CheckpointMissingError: If there is none.
        CheckpointCorruptError: If it is damaged, or has been written by another version.
    """
    return understood(url, read_record(url, options, largest=largest), model)


def understood(url: str, record: object, model: type[Model]) -> Model:
    """Return a document as what it should be.

    Raises:
        CheckpointCorruptError: If it has been written by another version, or is damaged.
    """
    try:
        return model.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:200] or "the whole"
        raise CheckpointCorruptError(
            f"The record at {url} is not what this version writes ({place}: {first['msg']}, and "
            f"{error.error_count() - 1} more). It was written by another version of this "
            "program, or is damaged. Read it with that version, or delete it and run what writes "
            "it again."
        ) from None
    except UNFORESEEN as error:  # of the model's own validators, which expected another type
        raise _corrupt(url, f"its values are of no use ({type(error).__name__})") from error


def read_records(urls: list[str], *, largest: int = LARGEST) -> dict[str, dict[str, Any] | None]:
    """Return many JSON documents at once, by location; None for one that is damaged.

    Those that are not there are left out: what is read in bulk may go while it is read.

    Args:
        urls: The locations, all in one filesystem.
        largest: Bytes that each may have.
    """
    records: dict[str, dict[str, Any] | None] = {}
    for first in range(0, len(urls), _AT_ONCE):
        records |= _read_batch(urls[first : first + _AT_ONCE], largest)
    return records


def _read_batch(urls: list[str], largest: int) -> dict[str, dict[str, Any] | None]:
    file_system, _ = filesystem(urls[0])
    places = [filesystem(url)[1] for url in urls]
    records: dict[str, dict[str, Any] | None] = {}
    # One after the other where they are near, so that one at a time is in memory as it is written.
    for url, content in zip(urls, _cat_many(file_system, places, largest), strict=True):
        if isinstance(content, bytes):
            with suppress(CheckpointCorruptError):
                records[url] = parse_document(url, content, largest)
            records.setdefault(url, None)
        elif isinstance(content, CheckpointCorruptError):
            records[url] = None
        elif not isinstance(content, _ABSENT):
            raise content
    return records


def _cat_many(
    file_system: AbstractFileSystem, paths: list[str], largest: int
) -> Iterator[bytes | Exception]:
    """Yield the content of files, or why it cannot be had.

    By name: ``file_system.cat`` would take brackets and stars in a path for a pattern.
    """
    if is_local(file_system):
        for path in paths:
            try:
                content: Any = _cat(file_system, path, largest)
            except (OSError, CheckpointCorruptError) as error:
                content = error
            yield content
        return
    contents: Any = file_system.cat_ranges(paths, 0, largest + 1, on_error="return")
    for each in contents:
        yield b"" if _is_empty(each) else each


def parse_document(url: str, content: bytes, largest: int = LARGEST) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        CheckpointCorruptError: If it is none, or larger or deeper than any of ours.
    """
    if len(content) > largest:
        raise _corrupt(url, f"it is larger than {largest} bytes")
    if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise _corrupt(url, f"it holds more than {_MOST_VALUES} values")
    try:
        record = json.loads(content, parse_constant=_refuse, parse_float=_finite)
        if isinstance(record, dict) and not _is_deep(record):
            _refuse_half_characters(content, record)
            return record
        found = f"it holds a {type(record).__name__}"
        found = "it is too deep" if isinstance(record, dict) else found
    except (ValueError, RecursionError, MemoryError) as error:
        raise _corrupt(url, f"{error or type(error).__name__}"[:300]) from error
    raise _corrupt(url, found)


def read_bytes(
    url: str, options: dict[str, Any] | None = None, *, largest: int = LARGEST
) -> bytes | None:
    """Return the content of a file, or None if there is none.

    Raises:
        CheckpointCorruptError: If it is larger than any of ours.
    """
    file_system, path = filesystem(url, options)
    try:
        content = _cat(file_system, path, largest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise _corrupt(url, "it is a folder") from error
    if len(content) > largest:
        raise _corrupt(url, f"it is larger than {largest} bytes")
    return content


def _cat(file_system: AbstractFileSystem, path: str, largest: int) -> bytes:
    """Return the content of a file, one byte more than the largest at most."""
    if is_local(file_system):
        return _cat_local(path, largest)
    try:
        content: Any = file_system.cat_file(path, start=0, end=largest + 1)
    except OSError as error:
        if not _is_empty(error):
            raise
        return b""
    return content


def _cat_local(path: str, largest: int) -> bytes:
    try:
        # A pipe in the place of a file would be waited for, for ever, without O_NONBLOCK.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as file:
            if stat.S_ISREG(os.fstat(number).st_mode):
                return file.read(largest + 1)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise
    raise CheckpointCorruptError(f"{path} is no file, where a file should be. Remove it.")


def _is_empty(answer: Any) -> bool:  # noqa: ANN401 (content or error)
    """Whether an object store says that an object has no bytes, of which a part was asked for."""
    return isinstance(answer, OSError) and answer.errno == errno.EINVAL


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _refuse_half_characters(content: bytes, record: dict[str, Any]) -> None:
    r"""Refuse escapes such as \\ud800 that stand for no character and can be written nowhere."""
    if b"\\ud" in content or b"\\uD" in content:
        json.dumps(record, ensure_ascii=False).encode()


def _is_deep(record: Any) -> bool:  # noqa: ANN401 (any JSON value)
    """Whether values lie in one another as no document of ours has them."""
    level: list[Any] = [record]
    for _ in range(_DEEPEST):
        inside = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for values in inside for each in values if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def write_bytes(url: str, content: bytes, options: dict[str, Any] | None = None) -> None:
    """Write a file in one piece, in place of an older one; its folder is created."""
    file_system, path = filesystem(url, options)
    if not is_local(file_system):
        file_system.pipe_file(path, content)  # an object appears when its upload is complete
        return
    with _partial(Path(path), content) as partial:
        os.replace(partial, path)


@contextmanager
def _partial(target: Path, content: bytes) -> Iterator[Path]:
    """Write a file beside its target, in a folder that is created; removed if it is still there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _corrupt(url: str, found: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"The record at {url} is not a JSON object: {found}. "
        "Delete it, and run the stage that writes it again."
    )
