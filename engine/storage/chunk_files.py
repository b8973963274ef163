"""Chunks of a local store, read and written as the files that zarr makes of them.

A chunk is its numbers, little-endian, and the crc32c of those bytes (four bytes). That is the whole
format, which ``engine.storage.zarr_group`` writes down and compares. Through zarr's event loop and
its threads a row of 10 MB took three to six times as long as its bytes; objects in a bucket, where
that is nothing beside the network, stay with zarr.
"""

import errno
import os
import stat
import uuid

import google_crc32c
import numpy as np

_CHECKSUM = 4  # bytes


def read_chunk(path: str, count: int, dtype: np.dtype) -> np.ndarray:
    """Return the numbers of a chunk, shape (count,), after comparing its checksum.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no file, has another size, or fails its checksum.
    """
    size = count * dtype.itemsize
    try:
        opened = open(path, "rb", buffering=0, opener=_without_waiting)  # noqa: SIM115 (closed below)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{path} is no file") from error
        raise
    with opened as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is no file")
        if found.st_size != size + _CHECKSUM:
            raise ValueError(f"it has {found.st_size} bytes, and {size + _CHECKSUM} were written")
        content = np.empty(size + _CHECKSUM, np.uint8)
        view, done = memoryview(content), 0  # pyright: ignore[reportArgumentType] (a buffer)
        while done < len(view) and (more := file.readinto(view[done:])):
            done += more
    written = int.from_bytes(content[size:].tobytes(), "little")
    computed = _checksum(content[:size])
    if done < len(view) or written != computed:
        raise ValueError(f"its checksum is {computed:08x}, and {written:08x} was written")
    return content[:size].view(dtype)


def write_chunk(path: str, numbers: np.ndarray) -> None:
    """Write a chunk under its name at once, as a whole or not at all.

    Args:
        path: Path of the file.
        numbers: Contiguous, shape (count,).
    """
    flat = np.ascontiguousarray(numbers).view(np.uint8)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(flat)  # pyright: ignore[reportArgumentType] (a buffer)
            file.write(_checksum(flat).to_bytes(_CHECKSUM, "little"))
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def _without_waiting(path: str, flags: int) -> int:
    """Open what lies there, which may be a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _checksum(octets: np.ndarray) -> int:
    return google_crc32c.value(octets)  # pyright: ignore[reportArgumentType] (any buffer that does not move)
