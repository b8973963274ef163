"""Images of shards as tensors: decoded by Pillow, scaled, cropped; held, or read when asked for."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from fsspec.core import url_to_fs
from torch import Tensor

from engine.errors import ConfigurationError, DataError
from engine.extras import install
from engine.types import Batch

SHIFT, SCALE = 127.5, 63.75
"""Bytes become (byte - shift) / scale."""


def readable(content: bytes) -> bool:
    """Say whether bytes begin as an image that Pillow knows, and are whole as far as that shows."""
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(content)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError):
        return False
    return True


def decode(content: bytes, size: int, name: str) -> np.ndarray:
    """Return an image as bytes of shape (3, size, size): its middle square, scaled.

    Raises:
        DataError: If it cannot be decoded.
    """
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(content)) as image:
            colours = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise DataError(
            f"The image of {name} cannot be decoded ({error}). Repair it, or take the pair away."
        ) from error
    side = min(colours.size)
    left, top = ((length - side) // 2 for length in colours.size)
    box = (left, top, left + side, top + side)
    scaled = colours.crop(box).resize((size, size), pillow.Resampling.BICUBIC)
    return np.asarray(scaled, dtype=np.uint8).transpose(2, 0, 1)


def standardized(stored: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """Return images as training sees them, shape (images, 3, size, size)."""
    return (torch.from_numpy(np.stack(stored)).to(dtype) - SHIFT) / SCALE


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images that are read from their tar shards when a batch asks for them.

    Attributes:
        places: Where each lies.
        names: What each is called in messages.
        url: Folder of the shards.
        size: Height and width.
        dtype: Number format.
    """

    places: Sequence[Any]
    names: Sequence[str]
    url: str
    size: int
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As that of a tensor."""
        return len(self), 3, self.size, self.size

    def __getitem__(self, indices: Tensor | slice) -> Any:  # noqa: ANN401 (images, or fewer of them unread)
        """Return the images at indices, read; for a slice, fewer of them, not read."""
        if isinstance(indices, slice):
            return ShardImages(
                self.places[indices], self.names[indices], self.url, self.size, self.dtype
            )
        filesystem, _ = url_to_fs(self.url)
        rows = indices.tolist()
        chosen = [self.places[row] for row in rows]
        contents = filesystem.cat_ranges(
            [place.shard for place in chosen],
            [place.offset for place in chosen],
            [place.offset + place.size for place in chosen],
        )
        images = [
            decode(content, self.size, str(self.names[row]))
            for row, content in zip(rows, contents, strict=True)
        ]
        return standardized(images, self.dtype)


@dataclass(frozen=True, eq=False)
class PairBatches:
    """Examples of a ``Routine`` whose images are read batch by batch."""

    images: ShardImages
    tokens: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return (images, tokens) on the device."""
        at = indices.cpu()
        return self.images[at].to(self.device), self.tokens[at].to(self.device)

    def first(self, number: int) -> "PairBatches":
        """Return the first pairs, for twins of a run."""
        return PairBatches(self.images[:number], self.tokens[:number], self.device)


def _pillow() -> Any:  # noqa: ANN401 (a module, by name, because it is an extra)
    if find_spec("PIL") is None:
        raise ConfigurationError(
            f"The images of data.name=image-text need the package pillow. Run: {install('clip')}."
        )
    return import_module("PIL.Image")
