"""Files below a location with their sizes and times, on any filesystem."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from engine.storage.location import filesystem, is_local


@dataclass(frozen=True)
class File:
    """One stored object.

    Attributes:
        path: As its filesystem names it.
        bytes: Size of the file.
        modified: When it was written, in seconds since 1970, by the clock of the store.
    """

    path: str
    bytes: int
    modified: float


def list_tree(url: str) -> list[File]:
    """Return every file below a location; none if it is absent. Links are not followed."""
    file_system, path = filesystem(url)
    if is_local(file_system):
        return list(_local_files(path))
    found = file_system.find(path, detail=True)
    assert isinstance(found, dict)  # with detail=True
    return list(_files(file_system, found.values()))


@dataclass(frozen=True)
class Data:
    """What lies in a folder of data that somebody has put together.

    Attributes:
        files: All files; links to files and folders count as what they lead to.
        linked: Paths of files behind links that lead out of the folder.
        others: Paths of what cannot be read: pipes, devices, links to nothing or back, and folders
            that lie too deep or are linked too often.
        empty: Paths of folders in which there is nothing.
    """

    files: list[File]
    linked: set[str]
    others: list[str]
    empty: list[str]


def list_data(url: str) -> Data:
    """List the files below a folder of data; links are followed, for people make folders of them.

    A link that leads to a folder above is not, since it would never end.
    """
    file_system, path = filesystem(url)
    if not is_local(file_system):
        files = list_tree(url)
        if not files:
            # To look for files is to find none also where nobody answers; this says why.
            file_system.ls(path, detail=False)
        return Data(files, set(), [], [])
    found = Data([], set(), [], [])
    root = os.path.realpath(path)
    _local_data(path, root, (root,), found, Counter())
    return found


_DEEPEST, _MOST_WAYS = 200, 16
"""Folders in one another, and ways by which links lead to one folder, that anybody makes. Folders
that lead twice to the next one, and so on, are a billion after thirty of them."""


def _local_data(
    path: str, root: str, above: tuple[str, ...], found: Data, ways: Counter[str]
) -> None:
    entries = sorted(os.scandir(path), key=lambda each: each.name)
    if not entries:
        found.empty.append(path)
    for entry in entries:
        real = os.path.realpath(entry.path) if entry.is_symlink() else ""
        try:
            state = entry.stat()
        except OSError:
            found.others.append(entry.path)  # a link to nothing, or to itself
            continue
        if stat.S_ISDIR(state.st_mode):
            inner = real or os.path.join(above[-1], entry.name)
            ways[inner] += 1
            leads_back = any(_is_in(each, inner) for each in above)
            if leads_back or len(above) > _DEEPEST or ways[inner] > _MOST_WAYS:
                found.others.append(entry.path)
            else:
                _local_data(entry.path, root, (*above, inner), found, ways)
        elif stat.S_ISREG(state.st_mode):
            found.files.append(File(entry.path, state.st_size, state.st_mtime))
            if not _is_in(real or os.path.join(above[-1], entry.name), root):
                found.linked.add(entry.path)
        else:
            found.others.append(entry.path)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def describe_file(url: str) -> File:
    """Return one file that is there.

    Raises:
        FileNotFoundError: If it is not.
    """
    file_system, path = filesystem(url)
    (found,) = _files(file_system, [file_system.info(path)])
    return found


def relative_paths(url: str, files: Iterable[File]) -> dict[str, File]:
    """Return files by their paths below a location."""
    root = filesystem(url)[1].rstrip("/") + "/"
    return {file.path.removeprefix(root): file for file in files}


def _local_files(path: str) -> Iterator[File]:
    """List a folder of this machine: ten times as fast as the general way, which counts here."""
    try:
        entries = list(os.scandir(path))
    except (FileNotFoundError, NotADirectoryError):
        return  # absent, or it went while it was looked at
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _local_files(entry.path)
        elif entry.is_file(follow_symlinks=False):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield File(entry.path, found.st_size, found.st_mtime)


def _files(file_system: AbstractFileSystem, entries: Iterable[dict[str, Any]]) -> Iterator[File]:
    for entry in entries:
        if entry["type"] == "file":
            yield File(entry["name"], int(entry["size"] or 0), _modified(file_system, entry))


def _modified(file_system: AbstractFileSystem, entry: dict[str, Any]) -> float:
    # Each filesystem has a name of its own for it; the method asks once more for each file.
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        if name in entry:
            value = entry[name]
            break
    else:
        value = file_system.modified(entry["name"])
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value)
