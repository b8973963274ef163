"""Whether code writes where no variable of the process is, and reads from there: files, data bases.

Python tells whoever asks of such calls (``sys.addaudithook``). What was asked for once can never be
taken away, so one function is there for the whole process, and does nothing while nobody listens.
A log is written and never read, so it says nothing; nor does what torch compiles.
"""

import mmap
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, no_type_check

import torch

_BOTH_WAYS = {
    *("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.putenv"),
    "sqlite3.connect",
}
"""What tells of something that keeps what it is given and gives it back, by Python's names."""

_FILES = {"open", "os.rename", "shutil.move", "mmap.__new__"}
"""What tells of a file."""

_NOTING: ContextVar["OutsideWrites | None"] = ContextVar("noting", default=None)

_ENGINE = f"{Path(__file__).parents[2]}{os.sep}"
_COMPILER = tuple(
    f"{Path(torch.__file__).parent}{os.sep}{name}" for name in ("_inductor", "_dynamo", "utils")
)
_LIBRARIES = (
    "<",
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
)


class OutsideWrites:
    """Notes whether a block reads what it has written outside; several threads may share it.

    Attributes:
        found: Whether it may.
    """

    def __init__(self) -> None:
        self.found = False
        self._written: set[str] = set()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is done inside of the block."""
        _listen()
        token = _NOTING.set(self)
        try:
            yield
        finally:
            _NOTING.reset(token)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """Note one call."""
        if event == "open":
            self._open(*args[:3])
        elif event in ("os.rename", "shutil.move"):  # as of a file that is written beside
            self._written |= {_path(args[1])} if _path(args[0]) in self._written else set()
        elif event == "mmap.__new__":
            self.found |= args[2] != mmap.ACCESS_READ
        else:
            self.found = True

    def _open(self, path: object, mode: object, flags: object) -> None:
        file, is_both = _path(path), isinstance(mode, str) and "+" in mode
        writes = is_both or (
            any(each in mode for each in "wax")
            if isinstance(mode, str)
            else isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        )
        self.found |= is_both or (file in self._written and not writes)
        if writes:
            self._written.add(file)


@cache
def _listen() -> None:
    sys.addaudithook(_hear)


@no_type_check  # Python calls it for each look at a frame or an id, millions of times in the tests
def _hear(
    event: str,
    args: tuple[Any, ...],
    known: frozenset[str] = frozenset(_FILES | _BOTH_WAYS),
    current: ContextVar["OutsideWrites | None"] = _NOTING,
) -> None:
    """Hear of a call; when Python ends, the names of this file are gone, and its defaults not."""
    if event not in known:
        return
    noting = current.get()
    if noting is not None and not noting.found and _is_asked_by_the_user():
        noting.hear(event, args)


def _is_asked_by_the_user() -> bool:
    """Say whether code of the user's leads to a call, and not the engine or a compiler alone."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__:  # that is where Python asks
            if file.startswith((_ENGINE, *_COMPILER)):
                return False
            if not file.startswith(_LIBRARIES):
                return True
        frame = frame.f_back
    return False


def _path(given: object) -> str:
    """Return what stands for a file; a number that is open already stands for itself."""
    try:
        return os.path.abspath(os.fsdecode(given))  # pyright: ignore[reportArgumentType] (refused below)
    except TypeError:
        return str(given)
