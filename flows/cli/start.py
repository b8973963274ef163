"""The command line, or a word about what it needs; ``mgd_command`` calls it.

The library alone installs this command too, without the packages that it is made of.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

from flows.cli.terminal.signals import hurried

PATIENCE = 30.0
"""Seconds that what is left of a command may take: Python waits for threads, and for what was
registered for its end, whoever has begun them; the server of a command is stopped within it too."""

HURRY = 6.0
"""The same from the moment on at which a signal asks for haste: the server has five."""

_end_at_once = os._exit


def main() -> None:
    """Run the command line; without its packages, say how they are installed."""
    _tell_of_sudden_ends()
    try:
        from flows.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("engine", "tasks", "flows"):
            raise
        from engine.extras import install

        sys.exit(
            f"mgd needs the package {error.name}, which the library alone does not install. "
            f"Run: {install('pipeline')}."
        )
    try:
        app()
    except SystemExit as error:
        _end_in_time(error.code)
        raise
    _end_in_time(0)


def _tell_of_sudden_ends() -> None:
    """Let code that ends the process on the spot be named, and be no success of the command.

    Nothing of Python's own is left to say so afterwards: no error, no handler, no buffer.
    """
    command = os.getpid()

    def end_with_words(status: int) -> NoReturn:
        if os.getpid() != command:  # a child of it, which has to end like this
            _end_at_once(status)
        caller = sys._getframe(1)
        words = (
            f"Code that the command called ends the process in line {caller.f_lineno} of "
            f"{caller.f_code.co_filename} (os._exit). Raise an error that says what is wrong "
            "instead. Finished stages are kept.\n"
        )
        with suppress(OSError):
            os.write(2, words.encode(errors="backslashreplace"))
        _end_at_once(status or 1)

    os._exit = end_with_words


def _end_in_time(code: object) -> None:
    """End the process after ``PATIENCE``, with the code that it would have, if it does not end.

    A problem's code may have left a thread that waits for ever, or a handler that does. Whoever
    does not want to wait presses Ctrl-C, see ``signals.is_over``.
    """
    number = code if isinstance(code, int) else int(code is not None)
    threading.Thread(target=_end, args=(number,), name="end of the command", daemon=True).start()


def _end(code: int) -> None:
    threading.main_thread().join()  # it has nothing left to do but to wait
    if hurried.wait(PATIENCE):
        time.sleep(HURRY)
    words = (
        "The command is done, and does not wait any longer for threads or exit handlers that the "
        "code which it called has left.\n"
    )
    with suppress(OSError):
        os.write(2, words.encode())
    if "multiprocessing" in sys.modules:  # what it has begun would go on without this process
        for child in sys.modules["multiprocessing"].active_children():
            child.terminate()
    _end_at_once(code)
