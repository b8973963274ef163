"""Images of shards as tensors: held, or read when a batch asks for them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import DataError
from engine.problems.pairs.pictures import decode
from engine.routine.examples import Batches
from engine.storage.reading import data_errors, open_data
from engine.types import Batch

_SHIFT, _SCALE = 127.5, 63.75
"""Bytes become (byte - shift) / scale."""

BOUNDS = (-_SHIFT / _SCALE, (255 - _SHIFT) / _SCALE)
"""What the smallest and the largest byte become."""


def standardized(stored: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """Return images as training sees them, shape (images, 3, size, size)."""
    return (torch.from_numpy(np.stack(stored)).to(dtype) - _SHIFT) / _SCALE


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images that are read from their tar shards when a batch asks for them.

    Attributes:
        places: Where each lies.
        names: What each is called in messages.
        digests: SHA-256 of each one's bytes when they were first read.
        url: Folder of the shards.
        size: Height and width.
        max_pixels: Most pixels of one.
        dtype: Number format.
    """

    places: Sequence[Any]
    names: Sequence[str]
    digests: Sequence[bytes]
    url: str
    size: int
    max_pixels: int
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
            kept = {name: getattr(self, name)[indices] for name in ("places", "names", "digests")}
            return replace(self, **kept)
        what, rows = f"The shards under {self.url}", indices.tolist()
        filesystem, _ = open_data(what, self.url)
        chosen = [self.places[row] for row in rows]
        with data_errors(what, "They are read while the run goes on, so they have to stay."):
            contents: Any = filesystem.cat_ranges(
                [place.shard for place in chosen],
                [place.offset for place in chosen],
                [place.offset + place.size for place in chosen],
                on_error="raise",
            )
        images = [self._decoded(row, content) for row, content in zip(rows, contents, strict=True)]
        return standardized(images, self.dtype)

    def _decoded(self, row: int, content: bytes) -> np.ndarray:
        name = str(self.names[row])
        if hashlib.sha256(content).digest() != self.digests[row]:
            raise DataError(
                f"The image of {name} under {self.url} is not the one that was there when the run "
                "began: the shard was changed or cut off. Put it back, or start the run anew."
            )
        return decode(content, self.size, name, self.max_pixels)


@dataclass(frozen=True, eq=False)
class PairBatches(Batches):
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
