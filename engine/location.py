"""Where things lie: URLs, the filesystem behind one, and whether it can be written.

A location is a local path or any URL that fsspec knows. What a filesystem needs besides the URL
comes from the environment, so that no secret passes through a recipe or a task's parameters:

- S3, read by botocore whenever a connection is made: ``AWS_ENDPOINT_URL`` (or
  ``AWS_ENDPOINT_URL_S3``), ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
  ``AWS_DEFAULT_REGION``, ``AWS_PROFILE``.
- any protocol, read by fsspec once, when it is first imported: ``FSSPEC_<PROTOCOL>_<OPTION>``,
  e.g. ``FSSPEC_S3_ENDPOINT_URL``, or ``FSSPEC_S3='{"anon": true}'``.

The ``options`` that functions here take are fsspec's storage options and win over both.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import fsspec
import fsspec.config
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import Field

from engine.errors import EngineError, StoreError, StoreFullError, StoreUnavailableError
from engine.extras import install
from engine.s3 import use_patient_session

StoreUrl = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""Where a store is: a path or any fsspec URL. Empty text would be the folder of the process."""

_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol to the extra of ours that installs its driver

# One attempt and short waits: a wrong address is to be reported in seconds.
_IMPATIENT = {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}


def absolute(url: str) -> str:
    """Return a URL as it is, and a local path absolute, with ``~`` expanded.

    Workers run in other folders than the one in which a relative path was typed.

    Raises:
        StoreUnavailableError: If it is empty, which would be the folder of the process.
    """
    if not url.strip():
        raise StoreUnavailableError(
            f"{url!r} is no location. Give a path or any fsspec URL, e.g. --store s3://bucket/folder."
        )
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def join(url: str, *parts: str) -> str:
    """Return the location of ``parts``, one below the other, under ``url``."""
    root = url if url.endswith("://") else url.rstrip("/") + "/"
    return root + "/".join(part.strip("/") for part in parts)


def filesystem(url: str, options: dict[str, Any] | None = None) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of a location, and the path in it.

    Listings are not cached: other processes write to the same place.

    Raises:
        StoreUnavailableError: If the protocol is unknown or its driver is not installed.
    """
    if "://" not in url:
        return LocalFileSystem(auto_mkdir=True, use_listings_cache=False), absolute(url)
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


def is_local(file_system: AbstractFileSystem) -> bool:
    """Whether paths of this filesystem are paths of this machine."""
    return isinstance(file_system, LocalFileSystem)


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
    """Copy all files of a folder to a folder of this machine."""
    file_system, path = filesystem(source)
    for file in file_system.find(path):
        place = os.path.join(target, os.path.relpath(file, path))
        os.makedirs(os.path.dirname(place), exist_ok=True)
        file_system.get_file(file, place)


def remove_folder(url: str, options: dict[str, Any] | None = None) -> None:
    """Remove a folder and all that is in it; one that is not there is left so."""
    file_system, path = filesystem(url, options)
    with suppress(FileNotFoundError):
        file_system.rm(path, recursive=True)


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
                f"There is no space left in {url}: {error}. Nothing unfinished counts. Free some, "
                "e.g. with `mgd clean`, and start the same command again."
            ) from error
        if isinstance(error, PermissionError) or number == errno.EROFS:
            raise _unavailable(url, f"{type(error).__name__}: {error}".rstrip(".")) from error
        if not is_passing(error):
            raise
        raise StoreError(
            f"The store {url} does not answer: {type(error).__name__}: {error}. What is committed "
            "stays. Start the same command again when it does."
        ) from error


def is_passing(error: BaseException) -> bool:
    """Say whether what a store's driver raised may pass by itself: it gave no answer just now."""
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING) and error.errno not in _LASTING_NUMBERS
    # Clients of object stores raise these, which are no OSErrors; none of them need be installed.
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    return not kinds.isdisjoint(_UNANSWERED)


_LASTING = (
    *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError),
    PermissionError,
)
_LASTING_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG}
"""What is still there in a minute."""

_UNANSWERED = {
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "urllib3.exceptions.HTTPError",
}


def remove_files(url: str, paths: list[str], options: dict[str, Any] | None = None) -> None:
    """Remove files below a location, and folders that are empty then; what is gone already is fine.

    Args:
        url: The location.
        paths: As its filesystem names them, e.g. from ``find``.
        options: fsspec storage options.
    """
    file_system, root = filesystem(url, options)
    if paths and not isinstance(file_system, LocalFileSystem | MemoryFileSystem):
        file_system.rm(paths)  # in bulk; an object store does not mind what is not there
        return
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            file_system.rm_file(path)
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
    if url.startswith(("s3://", "s3a://")):
        use_patient_session()
        given = fsspec.config.conf.get("s3", {}) | (options or {})
        options = given | {"config_kwargs": _IMPATIENT | given.get("config_kwargs", {})}
    file_system, path = filesystem(url, options)
    probe, content = f"{path.rstrip('/')}/.probe-{uuid.uuid4().hex}", b"metagradient"
    # Drivers raise whatever their client library does, botocore's errors being no OSError, so
    # nothing narrower than Exception turns each into a message with a remedy.
    try:
        created = _missing_folders(file_system, path)
        try:
            file_system.pipe_file(probe, content)
            found = file_system.cat_file(probe)
        finally:
            _remove(file_system, probe, created)
    except Exception as error:
        raise _unavailable(url, f"{type(error).__name__}: {error}".rstrip(".")) from error
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
        f"Cannot write to {url}: {reason}. Give a folder or a bucket that can be written: "
        "--store URL."
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
