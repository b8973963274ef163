"""A group of zarr of which no number is seen before its whole row has been compared.

The checksum of a chunk says nothing of its place: chunks that were exchanged, within a row or with
another run's, pass it, and one that is missing is filled with NaN. So whoever reads a part of a row
has the row compared with its fingerprint first, once.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

_CHUNK = re.compile(r"(\w+)/c/(\d+)/\d+")
"""The key of a chunk: its vector and its row."""


class CheckedStore(WrapperStore[Store]):
    """A store whose rows are compared when a chunk of them is first read.

    Args:
        store: What it reads.
        check: Compares a vector of a row, by the row's number and the vector's name, with one chunk
            in memory at a time; raises StoreError if it is not the one that was committed.
    """

    def __init__(self, store: Store, check: Callable[[int, str], None]) -> None:
        super().__init__(store)
        self._check = check
        self._compared: dict[tuple[int, str], asyncio.Future[None]] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a part of a file, or the whole, once its row has been compared."""
        found = _CHUNK.fullmatch(key)
        if found:
            await self._is_whole(int(found[2]), found[1])
        return await self._store.get(key, prototype, byte_range)

    async def _is_whole(self, row: int, name: str) -> None:
        """Have a row compared by another thread: what reads objects waits for this loop."""
        known = self._compared.get((row, name))
        if known is None or (known.done() and (known.cancelled() or known.exception())):
            known = asyncio.ensure_future(asyncio.to_thread(self._check, row, name))
            self._compared[row, name] = known
        await asyncio.shield(known)

    def _with_store(self, store: Store) -> "CheckedStore":
        return CheckedStore(store, self._check)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was compared, which another process does again."""
        return self.__dict__ | {"_compared": {}}
