"""Which files of a local store this process has verified already.

A stage's state is read several times in a run: by the stage after it, by whoever reverses or scores
it. Its fingerprint is a pass over all of its bytes, and says nothing new while the file is the one
that was verified: the checksum that zarr compares at every read finds what a disk does to it.
A file is known by inode, size and times; one that was written a moment before it is read may be
written again within the same tick of the file system's clock, so it is not known by them yet.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Sequence

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""Path, inode, size and times of change of each file."""

_MOST = 4096
_TICK = 200_000_000  # ns; clocks of file systems tick every few ms

_verified: OrderedDict[Stamp, str] = OrderedDict()


def stamp(paths: Sequence[str]) -> Stamp | None:
    """Return what local files are known by; None if one is not there, or of a moment ago."""
    found, newest = [], time.time_ns() - _TICK
    for path in paths:
        try:
            seen = os.stat(path)
        except OSError:
            return None
        if max(seen.st_mtime_ns, seen.st_ctime_ns) > newest:
            return None
        found.append((path, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
    return tuple(found)


def is_verified(files: Stamp | None, fingerprint: str) -> bool:
    """Say whether these very files were seen to hold a vector of this fingerprint."""
    return files is not None and _verified.get(files) == fingerprint


def note(files: Stamp | None, fingerprint: str) -> None:
    """Note what files were seen to hold, given their stamp from before they were read."""
    if files is None:
        return
    _verified[files] = fingerprint
    while len(_verified) > _MOST:
        _verified.popitem(last=False)
