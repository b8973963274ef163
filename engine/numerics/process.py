"""Sets up a process that computes on a CPU: its threads, and its freed memory on Linux.

glibc gives large blocks back to the system as soon as they are freed, and every training step then
pays for page faults again: on small virtual machines steps were measured 3 to 10 times slower.
A thread beside the main one gets an arena of its own, whose blocks beyond 64 MiB come from the
system each time whatever the thresholds say: 100 MiB took 49 ms instead of 9. So there is one
arena for all threads.
"""

import ctypes
import logging
import os
import platform

import torch

from engine.errors import ConfigurationError

_logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc, malloc.h
_LARGEST = 2**31 - 1  # mallopt takes an int

_THREADS_PER_CORE = 16


def prepare_cpu(threads: int | None) -> str:
    """Set up this process for a run, and say in one line what was set.

    Args:
        threads: CPU threads of a stage; torch's own number if None. Stages set it themselves, since
            the last digits depend on it; here it holds for what is outside of them too.

    Raises:
        ConfigurationError: If there are so many that they would only wait for one another.
    """
    cores = os.cpu_count() or 1
    if threads is not None and threads > _THREADS_PER_CORE * cores:
        raise ConfigurationError(
            f"training.threads is {threads}, but this machine has {cores} cores, and so many "
            "threads would wait for one another for ever. The last digits of a run depend on the "
            f"number: choose one up to {_THREADS_PER_CORE * cores} here, or a larger machine."
        )
    kept = keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    number, source = torch.get_num_threads(), "torch's choice"
    if threads is not None:
        source = "training.threads"
    memory = "glibc keeps freed memory" if kept else "the C library is not glibc and left as it is"
    return f"CPU: {number} thread{'' if number == 1 else 's'} ({source}); {memory}."


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large freed blocks; return whether it was told.

    The process keeps its peak memory until it ends. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_THRESHOLD: _LARGEST, _M_TRIM_THRESHOLD: _LARGEST, _M_ARENA_MAX: 1}
    told = all([libc.mallopt(name, value) for name, value in settings.items()])
    _logger.debug("glibc keeps freed blocks: %s", told)
    return told
