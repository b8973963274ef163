"""Removes many files of a filesystem at once, and takes every name literally.

``cat``, ``rm``, ``get`` and ``copy`` of fsspec treat ``[``, ``*`` and ``?`` as patterns in a list
of paths, or in a path with ``recursive=True``: in a store ``exp[1]`` they read and delete the files
of its sibling ``exp1``. The functions of this module, and fsspec's calls for one file, do not.
"""

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

_AT_ONCE = 64
_IN_BULK = 1000  # keys that S3 deletes by one request
_GONE = (FileNotFoundError, NotADirectoryError)


def remove_all(file_system: AbstractFileSystem, paths: Sequence[str]) -> None:
    """Remove files; what is gone already is fine."""
    if isinstance(file_system, AsyncFileSystem):
        sync(file_system.loop, _remove_all, file_system, list(paths))
        return
    for path in paths:
        with suppress(*_GONE):
            file_system.rm_file(path)


async def _remove_all(file_system: Any, paths: list[str]) -> None:  # noqa: ANN401 (an asynchronous filesystem)
    if hasattr(file_system, "_bulk_delete"):  # an object store does not mind what is not there
        for first in range(0, len(paths), _IN_BULK):
            await file_system._bulk_delete(paths[first : first + _IN_BULK])
        return
    gate = asyncio.Semaphore(_AT_ONCE)

    async def remove(path: str) -> None:
        async with gate:
            with suppress(*_GONE):
                await file_system._rm_file(path)

    await asyncio.gather(*map(remove, paths))


def remove_below(file_system: AbstractFileSystem, path: str) -> None:
    """Remove a file, or a folder and all that is in it; one that is not there is left so."""
    if isinstance(file_system, LocalFileSystem):
        with suppress(*_GONE):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.remove(path)
        return
    entries: Any = file_system.find(path, withdirs=True, detail=True)
    kinds = {name: entry.get("type") for name, entry in entries.items()}
    remove_all(file_system, [name for name, kind in kinds.items() if kind != "directory"])
    if isinstance(file_system, AsyncFileSystem):
        return  # object stores have no folders
    folders = {path, *(name for name, kind in kinds.items() if kind == "directory")}
    for folder in sorted(folders, key=len, reverse=True):
        with suppress(OSError):  # it was no folder of its own
            file_system.rmdir(folder)
