"""What a terminal shows while a flow runs: a line for each iterate, and the last stage."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class _Lines(logging.Handler):
    """Prints a line for each iterate, and shows the last stage in a status line."""

    def __init__(self, console: Console, status: Status) -> None:
        super().__init__(logging.DEBUG)
        self.console, self.status = console, status

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO:
            self.console.print(record.getMessage(), highlight=False)
        else:
            self.status.update(record.getMessage())


@contextmanager
def progress() -> Iterator[None]:
    """Show a flow's progress on standard error while it runs."""
    from tasks.progress import TERMINAL

    console = Console(stderr=True)
    with console.status("Prefect starts") as status:
        lines = _Lines(console, status)
        TERMINAL.addHandler(lines)
        TERMINAL.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            TERMINAL.removeHandler(lines)
