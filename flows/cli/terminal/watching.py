"""The process and the terminal of a command that runs a flow."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from engine.progress.displays import LINES, PlainLines, Scores, can_draw, ticking
from engine.progress.meter import Meter, heard_by
from flows.cli.server.surroundings import SAFE_PATH
from flows.cli.terminal.screen import Screen, plain, tell
from flows.cli.terminal.signals import before_last_words

QUIET = {
    # Prefect logs each state of each task run, and each hook: hundreds of rows that say nothing.
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
}


def prepare_process(debug: bool) -> None:
    """Set what Prefect and the C library read at their start."""
    settings = QUIET | {
        # Both of Prefect's ways to send what is done here elsewhere, and the notice of the second.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # A server that was there and is restarted: waits of 2, 4, 8, ... s, eight minutes in all.
        # One that was never there is told at once all the same.
        "PREFECT_CLIENT_MAX_RETRIES": "8",
        # What the engine says of a stage, such as why it is made again, belongs to its run in the
        # UI; what it says outside of one, in a thread of its own, does not.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "engine,tasks",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }
    if not debug:
        # Prefect would print each task and, on an error, tracebacks of what is told in one message.
        settings["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        # That of its inner loggers, which PREFECT_TEST_MODE lets speak, frames included.
        settings["PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL"] = "CRITICAL"
    for name, value in (settings | SAFE_PATH).items():
        os.environ.setdefault(name, value)


class LineHandler(logging.Handler):
    """Prints the log records that are meant for the user.

    Args:
        write: Prints a line.
        level: Level of what is printed.
        said: Gets what has been printed.
    """

    def __init__(self, write: Callable[[str], None], level: int, said: set[str]) -> None:
        super().__init__(level)
        self._write, self._said = write, said

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self._write(record.getMessage())
        self._said.add(record.getMessage())


@contextmanager
def watched(*, quiet: bool = False) -> Iterator[set[str]]:
    """Show on standard error what is at work inside the block, from its first second on.

    In a terminal a picture at its foot, drawn anew twice a second, with lines above it that stay.
    Elsewhere lines with time stamps: what is at work, scores, and now and then how much is done.

    Args:
        quiet: Show warnings only.

    Yields:
        What was said in words of the run's own, as it is printed.
    """
    meter, said = Meter(), set[str]()
    with heard_by(meter), ExitStack() as stack:
        if quiet:
            write = _line
        elif can_draw(sys.stderr):
            write = stack.enter_context(_picture(meter))
        else:
            lines = PlainLines(meter, _line)
            write = lines.line
            stack.enter_context(ticking(lines.look))
        for name, level in (
            (LINES.name, logging.WARNING if quiet else logging.INFO),
            ("engine", logging.WARNING),
            ("tasks", logging.WARNING),
        ):
            logger, handler = logging.getLogger(name), LineHandler(write, level, said)
            if logger is LINES:
                logger.setLevel(logging.INFO)
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
        yield said


@contextmanager
def seen_at_work(*, quiet: bool = False) -> Iterator[None]:
    """Show in a terminal what a command without a run is at; elsewhere it says its result alone.

    Args:
        quiet: Show warnings only.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    with watched(quiet=quiet):
        yield


@contextmanager
def _picture(meter: Meter) -> Iterator[Callable[[str], None]]:
    """Draw a meter at the foot of the terminal; yield what prints a line above it."""
    from engine.progress.drawing import live

    console = Screen(stderr=True)
    over: list[bool] = []

    def write(line: str) -> None:
        if not over:
            drawn.above(lambda: console.tell(line))

    def end() -> None:
        over.append(True)  # what comes after the last words would hide how the run goes on
        drawn.stop()

    scores = Scores(meter, write, lambda: console.width)
    with (
        live(meter, console, plain) as drawn,
        before_last_words(end),
        ticking(scores.look),
    ):
        yield write


def _line(words: str) -> None:
    tell(words, err=True)
