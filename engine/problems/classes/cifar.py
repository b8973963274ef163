"""CIFAR-10 in its authors' binary format: one archive, read as it is, never unpacked to disk.

Each record is a byte for the class and 3,072 for the pixels: 32 rows of 32 for red, then green,
then blue. Five members of the archive are for training, one is for tests.

References:
    Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
"""

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fsspec.core import url_to_fs
from jaxtyping import Int64, UInt8
from torch import Tensor

from engine.errors import DataError
from engine.extras import install
from engine.secret_urls import refuse_secrets
from engine.storage.content import unpacked
from engine.storage.location import filesystem
from engine.storage.reading import data_errors

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
"""Where the authors keep it, 162 MB."""

CHECKSUM = "c32a1d4ab5d03f1284b67883e8d87530"
"""MD5 that the authors publish beside it."""

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TESTS = "test_batch.bin"

Pair = tuple[UInt8[Tensor, "_ 3 32 32"], Int64[Tensor, " _"]]
"""Images and their labels."""


def read_archive(url: str, checksum: str) -> tuple[Pair, Pair]:
    """Read training and test images from an archive in the official format.

    Args:
        url: The archive; a path or any fsspec URL. What is not local is fetched once and kept.
        checksum: MD5 that it must have.

    Raises:
        DataError: If it cannot be had, is another file, or is not in the format.
    """
    content = _fetch(url)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != checksum:
        _forget(url)
        raise DataError(
            f"The archive arguments.url={url} has the MD5 {found}, but {checksum} is asked for: "
            "it is "
            "incomplete, or another file. Fetch it anew, or, for an archive of your own in this "
            f"format, set arguments.checksum={found}."
        )
    members = _members(content, url)
    parts = [_records(members, name, url) for name in TRAINING]
    images, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return (images, labels), _records(members, TESTS, url)


def _members(content: bytes, url: str) -> dict[str, bytes]:
    """Return the files of the archive by their names without folders.

    Those of this format are read; the others are named only, with no content.
    """
    found: dict[str, bytes] = {}
    content = unpacked(content, f"The archive arguments.url={url}")
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and not name.startswith("._"):
                    found[name] = _read(archive, member, found.get(name), len(content))
    except Exception as error:  # tarfile raises what its parsing of numbers and names does
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(
            f"The archive arguments.url={url} cannot be read as one ({reason}). Point "
            "arguments.url at "
            f"CIFAR-10's binary version, {URL}."
        ) from error
    return found


def _read(
    archive: tarfile.TarFile, member: tarfile.TarInfo, before: bytes | None, most: int
) -> bytes:
    name = Path(member.name).name
    if name not in (*TRAINING, TESTS):
        return b""
    if before is not None:
        raise tarfile.ReadError(f"{name} is there twice")
    if member.size > most:  # no file can have more than the archive
        raise tarfile.ReadError(f"{name} is cut off")
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _records(members: dict[str, bytes], name: str, url: str) -> Pair:
    content = members.get(name)
    if content is None:
        raise DataError(
            f"The archive arguments.url={url} has no {name}; its files are "
            f"{', '.join(sorted(members)) or 'none'}. Point arguments.url at CIFAR-10's binary "
            "version."
        )
    if not content or len(content) % RECORD:
        raise DataError(
            f"{name} in arguments.url={url} has {len(content)} bytes, which are not whole "
            "records of "
            f"{RECORD}. Point arguments.url at CIFAR-10's binary version, not at that for Python "
            "or "
            "Matlab."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    images = torch.from_numpy(records[:, 1:].copy()).reshape(-1, *SHAPE)
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def _fetch(url: str) -> bytes:
    """Return the bytes of the archive, from the copy that was kept of it if there is one."""
    hint = (
        f"Without a network, fetch {URL} elsewhere and set arguments.url to the path of the copy; "
        f"https:// needs aiohttp. Run: {install('http')}."
    )
    refuse_secrets("arguments.url", url, is_place=True)
    with data_errors(f"The archive arguments.url={url}", hint):
        file_system, path = _open(url)
        with file_system.open(path, "rb") as file:
            return file.read()


def _open(url: str) -> tuple[Any, str]:
    """Return the filesystem of a URL, with a kept copy of what is not local, and the path in it."""
    if _is_local(url):
        return filesystem(url)
    return url_to_fs(f"filecache::{url}", filecache={"cache_storage": str(_folder())})


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _folder() -> Path:
    """Return where fetched archives are kept, for all stores and runs of this user."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "metagradient-descent"


def _forget(url: str) -> None:
    """Drop the copy of an archive that is not what it should be, so that it is fetched again."""
    if not _is_local(url):
        file_system, path = _open(url)
        file_system.pop_from_cache(path)
