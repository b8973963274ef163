"""Keeps freed memory in the process on Linux.

glibc gives large blocks back to the system as soon as they are freed, and every training step then
pays for page faults again: on small virtual machines steps were measured 3 to 10 times slower.
"""

import ctypes
import logging
import platform

_logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
_LARGEST = 2**31 - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large freed blocks; return whether it was told.

    The process keeps its peak memory until it ends. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    told = bool(
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST) and libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    )
    _logger.debug("glibc keeps freed blocks: %s", told)
    return told
