"""IDX files, the format of MNIST and its likes: one array of bytes, compressed or not."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import DataError
from engine.storage.content import unpacked
from engine.storage.reading import data_errors, open_data

FASHION_MNIST_URL = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package ``dataset-fashion-mnist`` puts the files."""


def read_idx(url: str, name: str, item_shape: tuple[int, ...]) -> Tensor:
    """Read one IDX file of bytes, compressed or not.

    Args:
        url: Folder of the file, any fsspec URL.
        name: File name without ``.gz``; the compressed file is preferred.
        item_shape: Shape that one item must have; ``()`` for labels.

    Returns:
        Bytes of shape ``(items, *item_shape)``.

    Raises:
        DataError: If there is no such file, or it is not an intact IDX file of this shape.

    References:
        The format is described by LeCun et al. with MNIST: two zero bytes, a type code, the
        number of axes, each axis as a big-endian 32-bit number, then the values row by row.
    """
    content, path = _fetch(url, name)
    try:
        content = unpacked(content, path)
    except DataError as error:
        reason = f"its compressed stream is broken ({error.__cause__ or error})"
        raise _damaged(path, reason) from error

    num_axes = 1 + len(item_shape)
    header_size = 4 + 4 * num_axes
    magic = bytes([0, 0, 0x08, num_axes])
    if content[:4] != magic or len(content) < header_size:
        found = content[:4].hex() or "nothing"
        raise _damaged(path, f"it starts with {found} where an IDX file has {magic.hex()}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", num_axes, offset=4))
    if shape[1:] != item_shape:
        raise _damaged(path, f"its items have shape {shape[1:]} instead of {item_shape}")
    num_bytes = len(content) - header_size
    if num_bytes != math.prod(shape):
        raise _damaged(path, f"shape {shape} needs {math.prod(shape)} bytes, not {num_bytes}")
    values = np.frombuffer(content, np.uint8, offset=header_size)
    return torch.from_numpy(values.copy()).reshape(shape)  # a copy, because bytes are read-only


def _damaged(path: str, reason: str) -> DataError:
    return DataError(
        f"{path} is not an intact IDX file: {reason}. Nothing can be trusted in such a file. "
        "Copy it anew, or point arguments.url at an intact copy."
    )


def _fetch(url: str, name: str) -> tuple[bytes, str]:
    """Return a file's bytes and its path; what may pass (no answer) is a StoreError."""
    what = f"arguments.url is {url}, which"
    filesystem, folder = open_data(what, url)
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    reasons = []
    for path in (f"{prefix}{name}.gz", f"{prefix}{name}"):
        try:
            with data_errors(what, "Set arguments.url to a folder that holds the four IDX files."):
                content: Any = filesystem.cat_file(path)
                return content, path
        except DataError as error:
            reasons.append(type(error.__cause__).__name__)
    raise DataError(
        f"Neither {name}.gz nor {name} can be read under arguments.url={url} "
        f"({', '.join(reasons)}). "
        f"Install Debian's package dataset-fashion-mnist, which fills {FASHION_MNIST_URL}, or "
        "set arguments.url to a folder that holds the four IDX files."
    )
