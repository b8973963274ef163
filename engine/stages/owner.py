"""Owner of a lease or a start: a process, and whether it is still alive.

Only processes of this machine can be looked up. Process numbers are reused, so a process is
identified by its number and the time of its start.
"""

import os
import socket
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from engine.recipes.settings import Document


class Owner(Document):
    """A process."""

    machine: str
    """Machine since its start, with the namespace of its process numbers."""

    pid: Annotated[int, Field(ge=1)]
    """Number of the process."""

    start: int | None
    """When it was started, in ticks of its machine."""


@lru_cache(maxsize=1)
def _machine() -> str:
    """Name this machine since its start, and the namespace in which process numbers are its own."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def this_process() -> Owner:
    """Return an identifier of this process among all others, of this machine and of others."""
    pid = os.getpid()
    return Owner(machine=_machine(), pid=pid, start=_process_start(pid))


def is_here(owner: Owner) -> bool:
    """Say whether a process is one of this machine, so that it can be asked for directly."""
    return owner.machine == _machine()


def is_over(owner: Owner) -> bool:
    """Say whether a process is known to have ended; of one on another machine nothing is."""
    return is_here(owner) and _process_start(owner.pid) != owner.start


def _process_start(pid: int) -> int | None:
    """Return when a process was started, in ticks of its machine; None if there is none.

    Numbers of processes are used again; the pair of both is not.
    """
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    if Path("/proc/self").exists():
        return None
    with suppress(ProcessLookupError, OverflowError):
        os.kill(pid, 0)
        return 0  # no /proc: that it is alive is all that can be known
    return None
