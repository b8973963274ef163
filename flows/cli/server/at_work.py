"""The ``mgd ui`` processes of this user, so that another command can end or join them.

Each holds a lock on a file that is called by its machine and process id. The kernel gives the lock
up when the process ends, however it ends, so the file of a dead one names no stranger's process.
Prefect's folder may be shared by machines and containers, where the same number is another's. What
lies there and is not this user's own file counts as nothing: by such a file another user could have
a process of the user's ended, or be handed the user's deployments.

Two servers on one database of Prefect's keep each other from writing, so there is one: it says
beside its file where it answers, in a file that only the user can read, and the next ``mgd ui``
puts its deployments there.
"""

import json
import os
import platform
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from engine.errors import ConfigurationError
from flows.cli.server.server_process import HOST, START_SECONDS
from flows.cli.server.surroundings import prefect_settings

if TYPE_CHECKING:
    import filelock

SECONDS_TO_END = 60.0
"""Longest wait for one that was asked to end: its stages at work are finished first."""

_NAME = "mgd-ui-{machine}-{process}.lock"

_STARTS = "mgd-starts-ui.lock"
"""Held by the one that looks for others, until it can be found by the next."""


class Served(NamedTuple):
    """Where an ``mgd ui`` answers.

    Attributes:
        process: Its id.
        api_url: URL of its server's API.
        secret: What the server asks for.
        folder: Its own folder, for as long as it is there.
    """

    process: int
    api_url: str
    secret: str
    folder: str


@contextmanager
def turn() -> Iterator["filelock.BaseFileLock"]:
    """Wait until no other ``mgd ui`` is starting.

    Yields:
        The lock that the others wait for, to be given up when this one can be found.

    Raises:
        ConfigurationError: If another one does not come to an end with it.
    """
    import filelock

    file = _folder() / _STARTS
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file, timeout=2 * START_SECONDS, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigurationError(
            f"Another mgd ui has been starting for {2 * START_SECONDS:g} s. End it with "
            "`mgd ui --stop`, and run the same command again."
        ) from error
    try:
        yield lock
    finally:
        lock.release()


def announce(served: Served) -> None:
    """Let others know where this one answers, in a file that only the user can read."""
    file = _address_in(_folder() / _name(str(os.getpid())))
    file.unlink(missing_ok=True)
    number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # through no link
    with open(number, "w", encoding="utf-8") as writing:
        writing.write(json.dumps(served._asdict()))


def other() -> Served | None:
    """Return an ``mgd ui`` of this user that answers on this machine; None if there is none."""
    import filelock

    for process, file in _here().items():
        try:
            with filelock.FileLock(file).acquire(timeout=0):  # of one that was killed
                _forget(file)
        except filelock.Timeout:
            served = _read(_address_in(file))
            if served is not None and served.process == process:
                return served
    return None


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
            _forget(file)


def end_all() -> dict[int, bool]:
    """Ask all of this user's on this machine to end, as Ctrl-C does, and wait for them.

    Returns:
        Process id of each to whether it has ended.
    """
    import filelock

    ended: dict[int, bool] = {}
    for process, file in _here().items():
        lock = filelock.FileLock(file)
        try:
            with lock.acquire(timeout=0):  # of one that was killed
                _forget(file)
        except filelock.Timeout:
            ended[process] = False
            with suppress(ProcessLookupError):  # it ended by itself, a moment ago
                os.kill(process, signal.SIGTERM)
            with suppress(filelock.Timeout), lock.acquire(timeout=SECONDS_TO_END):
                ended[process] = True
                _forget(file)
    return ended


def is_alone() -> bool:
    """Say whether no other is at work; one of another machine counts as long as its file is there.

    Both write into one database of Prefect's, and neither may close runs of the other.
    """
    import filelock

    own = _folder() / _name(str(os.getpid()))
    here = set(_here().values())
    for file in set(_folder().glob("mgd-ui-*.lock")) - {own}:
        if file not in here:
            return False
        try:
            with filelock.FileLock(file).acquire(timeout=0):  # of one that was killed
                _forget(file)
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


def _here() -> dict[int, Path]:
    """Return the files of this user's on this machine, by the process that each is called by.

    By whole names: another machine's name may begin with this one's.
    """
    pattern = re.compile(re.escape(_name("?")).replace(r"\?", r"([1-9]\d{0,9})"))
    named = [(pattern.fullmatch(file.name), file) for file in sorted(_folder().glob("mgd-ui-*"))]
    return {int(found[1]): file for found, file in named if found and _is_own(file)}


def _is_own(file: Path) -> bool:
    """Whether a path is a file of this user's, and no link."""
    with suppress(OSError):
        found = file.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
    return False


def _read(file: Path) -> Served | None:
    """Return where another one answers; None if it has not said so in a file of the user's own."""
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        served = Served(**json.loads(file.read_text(encoding="utf-8"))) if _is_own(file) else None
        if served is not None and urlsplit(served.api_url).hostname == HOST:
            return served
    return None


def _address_in(file: Path) -> Path:
    """Return where the one that holds a file says where it answers."""
    return file.with_suffix(".json")


def _forget(file: Path) -> None:
    file.unlink(missing_ok=True)
    _address_in(file).unlink(missing_ok=True)


def _name(process: str) -> str:
    return _NAME.format(machine=platform.node(), process=process)


def _folder() -> Path:
    return Path(prefect_settings().home)
