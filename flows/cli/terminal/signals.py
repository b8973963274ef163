"""End of a command by a signal: Ctrl-C, or the end of its terminal or of its machine.

Finished stages are kept in any case. The message names the run and the command that resumes it.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_words: list[Callable[[], str]] = []
"""Returns what is said after ``Stopped by ...``, with what stands between; the last one counts."""

_before: list[Callable[[], object]] = []
"""What is done before the last words, such as to take a picture off the terminal."""

_asked: list[signal.Signals] = []
"""The signals that have come, the first one first."""


hurried = threading.Event()
"""Set by a signal that comes when the command is over, and only its process still ends."""

_is_over: list[bool] = []
"""Not empty when the command is over."""


def stop_on_signals() -> None:
    """Stop at the next instruction of Python, within a step: what is committed is kept.

    Python would end on the spot; this way what atexit stops (the server) is stopped, leases of
    stages are given up, and the terminal gets its cursor back. A signal that the parent of this
    process ignores (``nohup``, a shell's ``&``) stays ignored. Does nothing outside of the main
    thread, which alone gets signals.
    """
    for noted in (_words, _asked, _is_over):
        noted.clear()
    hurried.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    for each in _SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _stop)


def is_over() -> None:
    """Let no signal break off what is left to do when the command has ended.

    An exception in the middle of it would leave the server alone, and show a traceback.
    """
    _is_over.append(True)


def goes_on(runs: list[str], store: str, begun: Callable[[str], bool]) -> None:
    """Note what is said when a signal comes to runs, by their names.

    Args:
        runs: Names of runs that the command carries out.
        store: Where they are.
        begun: Whether a run can be resumed by its name; asked by a handler of signals, so it must
            neither wait nor read anything.
    """
    place = shlex.quote(store)

    def words() -> str:
        there = [run for run in runs if begun(run)]
        if not there:
            return " before the run began. The same command begins it."
        then = "".join(f"\n  mgd resume {shlex.quote(run)} --store {place}" for run in there)
        return f". Finished stages are kept; the same command goes on, or:{then}"

    _words.append(words)


def says(words: str) -> None:
    """Note what is said when a signal comes to a command that has no run, or not yet."""
    _words.append(lambda: f". {words}")


def asked_code() -> int | None:
    """Return the exit code for the signal that ends the command, as shells have it, or None."""
    return 128 + _asked[0] if _asked else None


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
    if _is_over:
        hurried.set()
        return
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
    words = f"Stopped by {cause}{_words[-1]() if _words else '.'}"
    for action in list(_before):
        with suppress(Exception):
            action()
    # Not typer.echo: a signal may come while a line is being printed. The terminal may be gone.
    with suppress(OSError):
        os.write(2, f"\n{words}\n".encode())
