"""The process and the terminal of a command that runs a flow."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.status import Status

from flows.cli.screen import Screen, text
from flows.cli.signals import stop_on_signals
from flows.cli.surroundings import SAFE_PATH


def prepare_process(debug: bool) -> None:
    """Set what Prefect and the C library read at their start."""
    settings = {
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
    for name, value in (settings | SAFE_PATH).items():
        os.environ.setdefault(name, value)
    stop_on_signals()


class _Lines(logging.Handler):
    """Prints a line for each iterate and warning, and shows the last stage in a status line."""

    def __init__(self, console: Screen, status: Status, level: int) -> None:
        super().__init__(level)
        self.console, self.status = console, status

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO:
            self.console.print(record.getMessage())
        else:
            self.status.update(text(record.getMessage()))


@contextmanager
def progress() -> Iterator[None]:
    """Show a flow's progress on standard error while it runs."""
    from tasks.running.progress import TERMINAL

    console = Screen(stderr=True)
    with console.status("Prefect starts") as status, ExitStack() as stack:
        TERMINAL.setLevel(logging.DEBUG)
        for name, level in (
            (TERMINAL.name, logging.DEBUG),
            ("engine", logging.WARNING),
            ("tasks", logging.WARNING),
        ):
            logger, lines = logging.getLogger(name), _Lines(console, status, level)
            logger.addHandler(lines)
            stack.callback(logger.removeHandler, lines)
        yield
