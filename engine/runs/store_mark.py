"""The mark of a store: a small file that says that a folder is one, and the store's own clock.

Layout: ``<store>/store.json``, written by the first run and never again.
"""

import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.recipes.settings import Document
from engine.storage.listing import describe_file
from engine.storage.location import join, remove_file, store_errors
from engine.storage.places import MARK
from engine.storage.records import create_record, read_record, write_bytes

VERSION = 1
"""Of the layout of a store."""

OWNER = "metagradient-descent"
"""Tells the mark from a file of the same name that another user has written."""


class StoreMark(Document):
    """Content of the mark."""

    owner: str
    """``metagradient-descent``."""

    version: int
    """Of the layout."""

    made: str
    """UTC, ISO 8601."""


def mark_store(store: str) -> None:
    """Mark a folder as a store, unless it is one already.

    Raises:
        ConfigurationError: If something else lies there under the mark's name.
    """
    mark = StoreMark(owner=OWNER, version=VERSION, made=datetime.now(UTC).isoformat())
    with store_errors(store):
        if not create_record(join(store, MARK), mark.model_dump()):
            check_mark(store)


def check_mark(store: str) -> StoreMark:
    """Return the mark of a store.

    Raises:
        ConfigurationError: If the folder carries none, or that of a newer version.
    """
    url = join(store, MARK)
    content: dict[str, Any] = {}
    try:
        with store_errors(store):
            content = read_record(url)
    except CheckpointMissingError:
        raise ConfigurationError(
            f"There is no {MARK} in {store}, so this may be any folder, and nothing in it is "
            "touched. Name the store of your runs: --store URL. If it is one that was made before "
            f"stores were marked, start or resume any of its runs: that writes {MARK}."
        ) from None
    except CheckpointCorruptError:
        pass  # said below
    with suppress(ValidationError):
        mark = StoreMark.model_validate(content)
        if mark.owner == OWNER and mark.version <= VERSION:
            return mark
        if mark.owner == OWNER:
            raise ConfigurationError(
                f"The store {store} has the layout {mark.version}, and this version of the program "
                f"knows {VERSION}. Use the newer version."
            )
    raise ConfigurationError(
        f"{url} is not the mark of a store: it is damaged, or another program wrote it. If the "
        "folder is a store of yours, delete that file and start or resume any run, which writes it "
        "again. If not, name another folder: --store URL."
    )


def store_time(store: str) -> float:
    """Return the time by the clock that dates the store's files, in seconds since 1970.

    The clock of this machine may be days away from that one, so ages are told by this alone.

    Raises:
        StoreFullError: If there is not even room for a name.

    Cost:
        Writes, looks at and deletes an empty file.
    """
    url = join(store, f".probe-{uuid.uuid4().hex}")
    with store_errors(store):
        write_bytes(url, b"")  # has room on a disk that is full
        try:
            return describe_file(url).modified
        finally:
            remove_file(url)
