"""End of a command by a signal: Ctrl-C, or the end of its terminal or of its machine.

Finished stages are kept in any case. The message names the run and the command that resumes it.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_going_on: list[str] = []
"""How the run goes on, once there is one."""

_instead: list[str] = []
"""What a command says that is no run, such as a server."""

_before: list[Callable[[], object]] = []
"""What is done before the last words, such as to take a picture off the terminal."""

_asked: list[signal.Signals] = []
"""The signals that have come, the first one first."""


def stop_on_signals() -> None:
    """Stop at the next instruction of Python, within a step: what is committed is kept.

    Python would end on the spot; this way what atexit stops (the server) is stopped, and leases of
    stages are given up. A signal that the parent of this process ignores (``nohup``, a shell's
    ``&``) stays ignored.
    """
    _going_on.clear()
    _instead.clear()
    _asked.clear()
    for each in _SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _stop)


def goes_on(runs: list[str], store: str) -> None:
    """Note what is said when a signal comes: from now on there is something to go on with."""
    place = shlex.quote(store)
    commands = [f"mgd resume {shlex.quote(run)} --store {place}" for run in runs]
    _going_on[:] = commands


def says(words: str) -> None:
    """Note what is said when a signal comes to a command that is no run."""
    _instead[:] = [words]


def was_asked() -> bool:
    """Return whether a signal has come that ends the command."""
    return bool(_asked)


@contextmanager
def before_last_words(action: Callable[[], object]) -> Iterator[None]:
    """Do something before a signal is answered, while the block is at work."""
    _before.append(action)
    try:
        yield
    finally:
        _before.remove(action)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Say what is kept and how it goes on; end with 128 + the number of the signal, as shells do.

    The end of a terminal is treated as SIGTERM, which Prefect's own handler may have to answer:
    a stage that is at work gets its time (``tasks.running.stopping``).
    """
    asked = signal.Signals(number)
    first = not _asked
    _asked.append(asked)
    if asked is signal.SIGHUP and signal.getsignal(signal.SIGTERM) is not _stop:
        signal.raise_signal(signal.SIGTERM)
        return
    by = _asked[0]
    if first or by is signal.SIGHUP:
        _say(by)
    sys.exit(128 + by)


def _say(by: signal.Signals) -> None:
    cause = "Ctrl-C" if by is signal.SIGINT else by.name
    if _instead:
        words = f"Stopped by {cause}. {_instead[0]}"
    elif _going_on:
        then = "".join(f"\n  {command}" for command in _going_on)
        words = f"Stopped by {cause}. Finished stages are kept; the same command goes on, or:{then}"
    else:
        words = f"Stopped by {cause} before the run began."
    for action in list(_before):
        with suppress(Exception):
            action()
    # Not typer.echo: a signal may come while a line is being printed. The terminal may be gone.
    with suppress(OSError):
        os.write(2, f"\n{words}\n".encode())
