"""The memory that a process holds, for people."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def memory_in_words() -> str:
    """Return the memory of this process, e.g. ``1.2 GB, and 3.4 GB on the GPU``; or nothing."""
    parts: list[str] = []
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        parts.append(_size(pages * os.sysconf("SC_PAGE_SIZE")))
    torch = sys.modules.get("torch")  # whoever has not loaded it has nothing on a GPU
    with suppress(Exception):
        if torch is not None and torch.cuda.is_initialized():
            parts.append(f"{_size(torch.cuda.memory_reserved())} on the GPU")
    return ", and ".join(parts)


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
