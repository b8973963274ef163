"""Whether code writes where no variable of the process is: files, data bases, other processes.

Python tells whoever asks of such calls (``sys.addaudithook``). What was asked for once can never be
taken away, so one function is there for the whole process, and does nothing while nobody listens.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

_EVENTS = {
    *("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.putenv", "os.rename"),
    *("socket.connect", "socket.bind", "sqlite3.connect", "mmap.__new__", "shutil.move"),
}
"""What tells of something that is written outside, by the names that Python gives it."""

_NOTING: ContextVar["OutsideWrites | None"] = ContextVar("noting", default=None)


class OutsideWrites:
    """Notes whether anything is written outside inside of a block; several threads may share it.

    Attributes:
        found: Whether there was.
    """

    def __init__(self) -> None:
        self.found = False

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is written inside of the block."""
        _listen()
        token = _NOTING.set(self)
        try:
            yield
        finally:
            _NOTING.reset(token)


@cache
def _listen() -> None:
    sys.addaudithook(_hear)


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS and event != "open":
        return
    noting = _NOTING.get()
    if noting is None or noting.found:
        return
    noting.found = event in _EVENTS or _opens_to_write(*args[1:3])


def _opens_to_write(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return any(each in mode for each in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
