"""Locations: URLs, the filesystem behind one, and whether it can be written.

A location is a local path or a URL that fsspec knows. Stores can be written to local folders, to
``memory://`` and to object stores (S3 is tested), which need no folder before a file; data are read
from any URL. What a filesystem needs besides the URL comes from the environment, and a URL with a
secret in it is refused, so that none passes through a recipe or a task's parameters:

- S3, read by botocore whenever a connection is made: ``AWS_ENDPOINT_URL`` (or
  ``AWS_ENDPOINT_URL_S3``), ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
  ``AWS_DEFAULT_REGION``, ``AWS_PROFILE``.
- any protocol, read by fsspec once, when it is first imported: ``FSSPEC_<PROTOCOL>_<OPTION>``,
  e.g. ``FSSPEC_S3_ENDPOINT_URL``, or ``FSSPEC_S3='{"anon": true}'``.

The ``options`` that functions here take are fsspec's storage options and win over both.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import fsspec
import fsspec.config
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import Field

from engine.errors import (
    CheckpointCorruptError,
    EngineError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)
from engine.extras import install
from engine.secret_urls import redacted, refuse_secrets
from engine.storage.objects import remove_all, remove_below
from engine.storage.s3 import BucketMissingError, use_patient_session
from engine.storage.safe_names import part as one_part
from engine.storage.transient_errors import is_transient

StoreUrl = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""Where a store is: a path or any fsspec URL. Empty text would be the folder of the process."""

_ONE_SLASH = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)")
"""Begins what was meant as a URL, and would be a folder ``s3:`` of the process's own."""

_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol to the extra of ours that installs its driver

_IPV6 = re.compile(r"\[[0-9a-fA-F:.]*\]")
"""A host that is a number, whose colons chain nothing."""

# One attempt and short waits: a wrong address is to be reported in seconds.
_IMPATIENT = {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}


def absolute(url: str) -> str:
    """Return a URL as it is, and a local path absolute, with ``~`` expanded.

    Workers run in other folders than the one in which a relative path was typed.

    Raises:
        StoreUnavailableError: If it is empty, which would be the folder of the process, or a URL
            that lacks a slash, or one of a file with a path that is relative: who writes a URL
            means the same place from everywhere, and gets another one in each folder.
        ConfigurationError: If it holds a secret.
    """
    refuse_secrets("The location", url, is_place=True)
    if not url.strip():
        raise StoreUnavailableError(
            f"{url!r} is no location. Give a path or any fsspec URL, e.g. --store s3://bucket/folder."
        )
    begun = _ONE_SLASH.match(url)
    if begun and begun[1] in fsspec.available_protocols():
        raise StoreUnavailableError(
            f"{redacted(url)!r} is no location: two slashes come after {begun[1]}:. Did you mean "
            f"{begun[1]}://{redacted(url[begun.end() :])}?"
        )
    protocol, is_url, path = url.rpartition("://")
    if is_url and protocol in ("file", "local") and not os.path.isabs(path):
        raise StoreUnavailableError(
            f"{redacted(url)!r} is no location: the path of a file begins with a slash there. Did "
            f"you mean {protocol}://{redacted(os.path.abspath(os.path.expanduser(path)))}?"
        )
    return url if is_url else os.path.abspath(os.path.expanduser(url))


def join(url: str, *parts: str) -> str:
    """Return the location of ``parts``, one below the other, under ``url``.

    Raises:
        CheckpointCorruptError: If a part would lead to another place, see
        ``engine.storage.safe_names``.
    """
    root = url if url.endswith("://") else url.rstrip("/") + "/"
    below = [name for part in parts for name in part.strip("/").split("/")]
    return root + "/".join(one_part(name) for name in below)


def filesystem(url: str, options: dict[str, Any] | None = None) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of a location, and the path in it.

    Listings are not cached: other processes write to the same place.

    Raises:
        StoreUnavailableError: If the protocol is unknown or its driver is not installed.
        StoreError: If it has to be connected to first, and does not answer.
        ConfigurationError: If the URL holds a secret.
    """
    if "://" not in url:
        return LocalFileSystem(auto_mkdir=True, use_listings_cache=False), absolute(url)
    refuse_secrets("The location", url, is_place=True)
    protocol = url.split("://")[0]
    defaults: dict[str, Any] = {"use_listings_cache": False}
    if protocol in _EXTRAS:
        use_patient_session()
    if protocol in ("file", "local"):
        defaults["auto_mkdir"] = True
    try:
        return fsspec.url_to_fs(url, **(defaults | (options or {})))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"Run: {install(extra)}." if extra else f"{error}."
        raise StoreUnavailableError(
            f"Cannot open {url}: the driver for {protocol}:// is not installed. {remedy}"
        ) from error
    except ValueError as error:
        raise StoreUnavailableError(
            f"Cannot open {url}: {error}. Give a local path or a URL that fsspec knows, "
            "e.g. --store s3://bucket/folder."
        ) from error
    except Exception as error:  # some drivers connect at once, and raise what their library does
        reason = redacted(f"{type(error).__name__}: {error}".rstrip("."))
        if is_transient(error):
            raise StoreError(
                f"{url} does not answer: {reason}. Start the same command again when it does."
            ) from error
        raise StoreUnavailableError(
            f"Cannot open {url}: {reason}. Give a local path or a URL that fsspec can open."
        ) from error


def is_local(file_system: AbstractFileSystem) -> bool:
    """Whether paths of this filesystem are paths of this machine."""
    return isinstance(file_system, LocalFileSystem)


_LARGEST_COPIED = 128 << 20
"""Bytes; chunks and records are smaller."""


def refuse_links(url: str, *parts: str) -> None:
    """Refuse to write below a folder of a store that is a link to another place.

    Args:
        url: Folder of the store, which may be a link itself: whoever made the store chose where.
        parts: Folders, each below the one before.

    Raises:
        CheckpointCorruptError: If one is a link, by which whoever put it there would have files of
            this user's written anywhere.
    """
    file_system, path = filesystem(url)
    for part in parts if is_local(file_system) else ():
        path = os.path.join(path, one_part(part))
        if os.path.islink(path):
            raise CheckpointCorruptError(
                f"{path} is a link to another place, and nothing of a store is written through "
                "one. Remove the link; if the store is to lie elsewhere, move the whole of it."
            )


def linked_folders(url: str, *names: str) -> list[str]:
    """Return those of the folders directly below a location that are links, with where they lead.

    Returns:
        Each as ``path -> target``; none on filesystems that have no links.
    """
    file_system, path = filesystem(url)
    if not is_local(file_system):
        return []
    places = [os.path.join(path, one_part(name)) for name in names]
    return [f"{each} -> {os.path.realpath(each)}" for each in places if os.path.islink(each)]


def list_folders(url: str, options: dict[str, Any] | None = None) -> list[str]:
    """Return the names of the folders directly below a location, sorted; none if it is absent."""
    file_system, path = filesystem(url, options)
    try:
        entries = file_system.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        os.path.basename(entry["name"].rstrip("/"))
        for entry in entries
        if entry["type"] == "directory"
    )


def list_files(url: str, options: dict[str, Any] | None = None) -> list[str]:
    """Return the names of the files directly below a location, sorted; none if it is absent."""
    file_system, path = filesystem(url, options)
    try:
        entries = file_system.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(os.path.basename(entry["name"]) for entry in entries if entry["type"] == "file")


def copy_folder(source: str, target: str) -> None:
    """Copy all files of a folder to a folder of this machine.

    Raises:
        CheckpointCorruptError: If the listing names a file that would be written elsewhere: keys
            of an object store may hold ``..`` as it stands. Also if something in it is no file,
            or larger than any of ours.
    """
    file_system, path = filesystem(source)
    root = path.rstrip("/") + "/"
    found: Any = file_system.find(path, detail=True)
    # All of them first: nothing is written if one of them is refused.
    places = {file: join(target, file.removeprefix(root)) for file in found if file != path}
    for file, entry in found.items():
        if entry["type"] != "file" or entry["size"] > _LARGEST_COPIED:
            raise CheckpointCorruptError(
                f"{file} is no file of {_LARGEST_COPIED} bytes at most, and a stage has no others. "
                "Remove it, and run the stage again."
            )
    for file, place in places.items():
        os.makedirs(os.path.dirname(place), exist_ok=True)
        try:
            file_system.get_file(file, place)
        except (FileNotFoundError, IsADirectoryError, shutil.SpecialFileError) as error:
            raise CheckpointCorruptError(
                f"{file} is listed, and cannot be read: {error}. Remove it, and run the stage "
                "again."
            ) from error


def remove_folder(url: str, options: dict[str, Any] | None = None) -> None:
    """Remove a folder and all that is in it; one that is not there is left so."""
    remove_below(*filesystem(url, options))


def remove_file(url: str, options: dict[str, Any] | None = None) -> None:
    """Remove one file; one that is not there is left so."""
    file_system, path = filesystem(url, options)
    with suppress(FileNotFoundError, NotADirectoryError):
        file_system.rm_file(path)


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Name the store where it does not answer or is full, whatever its driver raises.

    Raises:
        StoreFullError: If there is no space left.
        StoreRefusedError: If it may not be read or written, or its bucket is gone: this does not
            pass by itself.
        StoreError: If it does not answer: this may pass, so whoever asked may try again.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(
                f"There is no space left in {url}: {redacted(str(error))}. Nothing unfinished "
                "counts. Free some, e.g. with `mgd clean`, and start the same command again."
            ) from error
        if number == errno.ENAMETOOLONG:
            raise _unavailable(url, f"{type(error).__name__}: {error}".rstrip(".")) from error
        if isinstance(error, BucketMissingError):
            raise StoreRefusedError(
                f"The bucket of the store {redacted(url)} does not exist (any more), so it can "
                "neither be read nor written. Look at its name and at AWS_ENDPOINT_URL, or "
                "name another store: --store URL."
            ) from error
        if isinstance(error, PermissionError) or number == errno.EROFS:
            raise StoreRefusedError(
                f"The store {redacted(url)} refuses to be read or written: "
                f"{type(error).__name__}: {redacted(str(error))}. What is committed stays. Mend "
                "its permissions, and start the same command again."
            ) from error
        if not is_transient(error):
            raise
        raise StoreError(
            f"The store {url} does not answer: {type(error).__name__}: {redacted(str(error))}. "
            "What is committed stays. Start the same command again when it does."
        ) from error


def remove_files(url: str, paths: list[str], options: dict[str, Any] | None = None) -> None:
    """Remove files below a location, and folders that are empty then; what is gone already is fine.

    Args:
        url: The location.
        paths: As its filesystem names them, e.g. from ``find``.
        options: fsspec storage options.
    """
    file_system, root = filesystem(url, options)
    remove_all(file_system, paths)
    if is_local(file_system):
        for folder in sorted({os.path.dirname(path) for path in paths}, key=len, reverse=True):
            _remove_empty(folder, root)


def _remove_empty(folder: str, root: str) -> None:
    with suppress(OSError):  # not empty, or gone
        while folder != root and folder.startswith(root):
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def check_writable(url: str, options: dict[str, Any] | None = None) -> None:
    """Write, read and delete a small object below a location, and leave nothing behind.

    Raises:
        StoreUnavailableError: If any of it fails, or the object does not read back.
    """
    refuse_secrets("The location", url, is_place=True)
    if "://" in url and "::" in _IPV6.sub("", url):
        # What others have written since would not be seen, leases and commits among it.
        raise _unavailable(url, "it chains filesystems, e.g. a cache before a store, or an archive")
    if url.startswith(("s3://", "s3a://")):
        use_patient_session()
        given = fsspec.config.conf.get("s3", {}) | (options or {})
        options = given | {"config_kwargs": _IMPATIENT | given.get("config_kwargs", {})}
    file_system, path = filesystem(url, options)
    # In a folder of its own, since a store has folders, and not every filesystem makes them.
    folder = f"{path.rstrip('/')}/.probe-{uuid.uuid4().hex}"
    probe, content = f"{folder}/probe", b"metagradient"
    # Drivers raise whatever their client library does, botocore's errors being no OSError, so
    # nothing narrower than Exception turns each into a message with a remedy.
    try:
        created = _missing_folders(file_system, folder)
        try:
            file_system.pipe_file(probe, content)
            found = file_system.cat_file(probe)
        finally:
            _remove(file_system, probe, created)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        if not isinstance(file_system, LocalFileSystem | MemoryFileSystem | AsyncFileSystem):
            reason += f" (with {url.split('://')[0]}:// a folder has to be made before a file)"
        raise _unavailable(url, reason) from error
    if found != content:
        raise _unavailable(url, f"{content!r} was written and {found!r} read back")


@contextmanager
def scratch_folder(url: str) -> Iterator[str]:
    """Yield the URL of a folder below a location, and leave nothing of it behind."""
    file_system, path = filesystem(url)
    created = _missing_folders(file_system, path)
    folder = join(url, f".probe-{uuid.uuid4().hex}")
    try:
        yield folder
    finally:
        remove_folder(folder)
        _remove(file_system, f"{path.rstrip('/')}/.probe", created)


def _unavailable(url: str, reason: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"Cannot write to {redacted(url)}: {redacted(reason)}. Give a local folder, or a bucket of "
        "an object store that can be written: --store URL."
    )


def _missing_folders(file_system: AbstractFileSystem, path: str) -> list[str]:
    """Return ``path`` and those of its parents that a write below it would create, deepest first.

    Object stores have no folders, so there is nothing to create or to remove.
    """
    missing: list[str] = []
    if isinstance(file_system, LocalFileSystem | MemoryFileSystem):
        while path.strip("/") and not file_system.exists(path):
            missing.append(path)
            path = os.path.dirname(path)
    return missing


def _remove(file_system: AbstractFileSystem, probe: str, folders: list[str]) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        file_system.rm_file(probe)
    for folder in folders:
        with suppress(OSError):  # not made, or another process has put something there
            file_system.rmdir(folder)
