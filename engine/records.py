"""Records: small JSON documents and other files beside the states, each written in one piece.

A reader finds the old content, the new content or nothing, never a part.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.location import filesystem, is_local, read_many


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
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The record for {url} has no JSON form: {error}. "
            "Write tensors as lists, and None where a number is not finite."
        ) from error
    return (text + "\n").encode()


def read_record(url: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON document at a location.

    Raises:
        CheckpointMissingError: If there is none.
        CheckpointCorruptError: If it is not a JSON object.
    """
    file_system, path = filesystem(url, options)
    try:
        content = file_system.cat_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointMissingError(
            f"There is no record at {url}. Run the stage that writes it first."
        ) from error
    try:
        record = json.loads(content)
    except ValueError as error:
        raise _corrupt(url, f"{error}") from error
    if not isinstance(record, dict):
        raise _corrupt(url, f"it holds a {type(record).__name__}")
    return record


def read_records(urls: list[str]) -> dict[str, dict[str, Any] | None]:
    """Return many JSON documents at once, by location; None for one that is damaged.

    Those that are not there are left out: what is read in bulk may go while it is read.
    """
    records: dict[str, dict[str, Any] | None] = {}
    for url, content in read_many(urls).items():
        if isinstance(content, FileNotFoundError | NotADirectoryError):
            continue
        if isinstance(content, Exception):
            raise content
        try:
            record = json.loads(content)
        except ValueError:
            record = None
        records[url] = record if isinstance(record, dict) else None
    return records


def read_bytes(url: str, options: dict[str, Any] | None = None) -> bytes | None:
    """Return the content of a file, or None if there is none."""
    file_system, path = filesystem(url, options)
    with suppress(FileNotFoundError, NotADirectoryError):
        content: Any = file_system.cat_file(path)
        return content
    return None


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
