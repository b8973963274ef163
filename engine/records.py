"""Records: small JSON documents and other files beside the states, each written in one piece.

A reader finds the old content, the new content or nothing, never a part.
"""

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.location import filesystem, is_local


def write_record(url: str, record: dict[str, Any], options: dict[str, Any] | None = None) -> None:
    """Write a JSON document, in place of an older one.

    Raises:
        ConfigurationError: If a value has no JSON form, as NaN and infinities have none.
    """
    try:
        text = json.dumps(record, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The record for {url} has no JSON form: {error}. "
            "Write tensors as lists, and None where a number is not finite."
        ) from error
    write_bytes(url, (text + "\n").encode(), options)


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
    if not urls:
        return {}
    file_system, _ = filesystem(urls[0])
    places = {filesystem(url)[1]: url for url in urls}
    found: Any = file_system.cat(list(places), on_error="return")
    records: dict[str, dict[str, Any] | None] = {}
    for path, content in found.items():
        if isinstance(content, OSError):
            if not isinstance(content, FileNotFoundError | NotADirectoryError):
                raise content
            continue
        try:
            record = json.loads(content)
        except ValueError:
            record = None
        records[places[path]] = record if isinstance(record, dict) else None
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
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _corrupt(url: str, found: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"The record at {url} is not a JSON object: {found}. "
        "Delete it, and run the stage that writes it again."
    )
