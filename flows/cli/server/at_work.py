"""Which ``mgd ui`` are at work for this user, so that another command can end them.

Each holds a lock on a file that is called by its machine and process id. The kernel gives the lock
up when the process ends, however it ends, so the file of a dead one names no stranger's process.
Prefect's folder may be shared by machines and containers, where the same number is another's.
"""

import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.cli.server.surroundings import prefect_settings

SECONDS_TO_END = 60.0
"""Longest wait for one that was asked to end: its stages at work are finished first."""

_NAME = "mgd-ui-{machine}-{process}.lock"


@contextmanager
def noted() -> Iterator[None]:
    """Let others know inside the block that this process is at work."""
    import filelock

    file = _folder() / _name(str(os.getpid()))
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(file, mode=0o600):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def end_all() -> dict[int, bool]:
    """Ask all of this user's on this machine to end, as Ctrl-C does, and wait for them.

    Returns:
        Process id of each to whether it has ended.
    """
    import filelock

    ended: dict[int, bool] = {}
    for file in sorted(_folder().glob(_name("*"))):
        lock = filelock.FileLock(file)
        try:
            with lock.acquire(timeout=0):  # of one that was killed
                file.unlink(missing_ok=True)
        except filelock.Timeout:
            process = int(file.stem.rpartition("-")[2])
            ended[process] = False
            with suppress(ProcessLookupError):  # it ended by itself, a moment ago
                os.kill(process, signal.SIGTERM)
            with suppress(filelock.Timeout), lock.acquire(timeout=SECONDS_TO_END):
                ended[process] = True
                file.unlink(missing_ok=True)
    return ended


def is_alone() -> bool:
    """Say whether no other is at work; one of another machine counts as long as its file is there.

    Both write into one database of Prefect's, and neither may close runs of the other.
    """
    import filelock

    own = _folder() / _name(str(os.getpid()))
    here = set(_folder().glob(_name("*")))
    for file in set(_folder().glob("mgd-ui-*.lock")) - {own}:
        if file not in here:
            return False
        try:
            with filelock.FileLock(file).acquire(timeout=0):  # of one that was killed
                file.unlink(missing_ok=True)
        except filelock.Timeout:
            return False
    return True


def children(process: int) -> list[int]:
    """Return the processes at work that a process has started; none where that cannot be seen."""
    found: list[int] = []
    for each in Path("/proc").glob("[0-9]*/stat"):  # there on Linux
        with suppress(OSError):
            state, parent = (
                each.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
            )
            if int(parent) == process and state not in "ZX":
                found.append(int(each.parent.name))
    return found


def _name(process: str) -> str:
    return _NAME.format(machine=platform.node(), process=process)


def _folder() -> Path:
    return Path(prefect_settings().home)
