"""Displays of progress: a live picture in a terminal or a notebook, or plain lines.

A display looks at a meter from a thread of its own, so that a step of a training waits for nobody.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import datetime
from importlib.util import find_spec
from typing import Any

from engine.progress.board import Board
from engine.progress.meter import Meter, heard_by, listening
from engine.progress.names import capital
from engine.progress.snapshot import Snapshot

LINES = logging.getLogger("mgd.lines")
"""What a program says to whoever watches it; silent unless somebody adds a handler."""
LINES.propagate = False
LINES.addHandler(logging.NullHandler())

_LOOK_SECONDS = 0.5
"""Time between two looks at a meter."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0
"""Bounds of the longest silence of plain lines, in seconds."""

_PAUSE_SHARE = 0.05
"""The longest silence between those bounds, as a share of the time gone: whoever watches the first
minutes is not left alone, and the log of a run of hours has a line a minute."""


def can_draw(stream: Any) -> bool:  # noqa: ANN401 (whatever stands for standard error)
    """Return whether a stream ends in a terminal that can take back what it has shown.

    A dumb one, as in an editor, cannot, and would show nothing of a picture: it gets plain lines.
    """
    return (
        stream is not None
        and stream.isatty()
        and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    )


class Scores:
    """Says what each outer step scores, once.

    Args:
        meter: What is watched.
        write: Prints a line.
        columns: Returns the columns of a line that stands above a picture, which has the time;
            None where nothing else says it, and lines are as long as they are.
    """

    def __init__(
        self,
        meter: Meter,
        write: Callable[[str], None],
        columns: Callable[[], int] | None = None,
    ) -> None:
        self._meter, self._write, self._columns = meter, write, columns
        self._said: dict[Board, int] = {}

    def look(self) -> None:
        """Say what is new."""
        for board in list(self._meter.boards):
            seen, known = board.snapshot(), self._said.get(board, 0)
            for place in range(known, len(seen.outer)):
                self._write(self._sentence(seen, place))
            self._said[board] = len(seen.outer)

    def _sentence(self, seen: Snapshot, place: int) -> str:
        whose = _whose(self._meter, seen)
        if self._columns is None:
            return whose + capital(seen.outer_sentence(place))
        room = self._columns() - len(whose)
        return whose + capital(seen.outer_sentence(place, timed=False, room=room))


class PlainLines:
    """Lines with time stamps: what is at work when that changes, scores, and now and then the rest.

    Args:
        meter: What is watched.
        write: Prints a line.
        clock: Seconds, only forward.
        stamp: Returns the time of day.
    """

    def __init__(
        self,
        meter: Meter,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        stamp: Callable[[], str] = lambda: datetime.now().strftime("%H:%M:%S"),
    ) -> None:
        self._meter, self._write, self._clock, self._stamp = meter, write, clock, stamp
        self._said, self._began, self._last = "", clock(), clock()
        self._scores = Scores(meter, self.line)

    def look(self) -> None:
        """Say what is new."""
        self._scores.look()
        seen = [board.snapshot() for board in list(self._meter.boards)]
        going = [each for each in seen if not each.is_finished]
        silent = self._clock() - self._last >= self._pause()
        if going and silent:
            for each in going:
                self.line(_whose(self._meter, each) + standing(each))
        work = self._meter.work
        if not going and work and (work != self._said or silent):
            # What comes before the stages of a run, and after them, one thing after the other.
            self._said = work
            self._say(work)

    def line(self, words: str) -> None:
        """Print a line with its time."""
        self._last = self._clock()
        self._write(f"[{self._stamp()}] {words}")

    def _say(self, words: str) -> None:
        self.line(capital(words))

    def _pause(self) -> float:
        """Return the longest silence at this moment, in seconds."""
        share = _PAUSE_SHARE * (self._clock() - self._began)
        return min(max(share, _SHORTEST_PAUSE), _LONGEST_PAUSE)


def _whose(meter: Meter, seen: Snapshot) -> str:
    """Return which run a line is about, from the moment on that there are several."""
    return f"{seen.title.partition(':')[0]}: " if len(meter.boards) > 1 else ""


def standing(seen: Snapshot) -> str:
    """Say in one line how much of a run is done, and what is at work."""
    return f"{100 * seen.share:.0f} %: {seen.sentence()}"


@contextmanager
def ticking(look: Callable[[], object], seconds: float = _LOOK_SECONDS) -> Iterator[None]:
    """Look again and again inside the block, and once at its end; what fails is left out."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(seconds):
            with suppress(Exception):  # what is shown of a run must not end it
                look()

    context = copy_context()  # of a flow's: its run, and where its server is
    thread = threading.Thread(target=context.run, args=(tick,), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)
        with suppress(Exception):
            look()


Shown = bool | Callable[[Snapshot], object]
"""Whether progress is shown, or who is handed what is seen."""


@contextmanager
def showing(progress: Shown, awaits: str = "") -> Iterator[Meter]:
    """Show, or hand on, how far what is computed inside the block is.

    Args:
        progress: True: a picture in a notebook or a terminal, plain lines elsewhere. A function:
            is called with a ``Snapshot`` twice a second, from a thread of its own. False: nothing.
        awaits: Title of a run inside the block that gets a board, see ``Meter``.

    Yields:
        The meter that is written on; of whoever listens already, where nothing is shown here.
    """
    if progress is False:
        yield listening() or Meter()
        return
    meter = Meter()
    meter.awaits = awaits
    with heard_by(meter):
        if callable(progress):
            call = progress

            def hand_on() -> None:
                for board in list(meter.boards):
                    call(board.snapshot())

            with ticking(hand_on):
                yield meter
            return
        with _display(meter):
            yield meter


@contextmanager
def _display(meter: Meter) -> Iterator[None]:
    """Show a meter where this program shows things."""
    lines = PlainLines(meter, lambda line: print(line, file=sys.stderr))  # noqa: T201 (for people)
    handle = _notebook()
    began = time.monotonic()
    if find_spec("rich") is None:  # the library alone does not install it
        with ticking(lines.look):
            yield
        return
    from engine.progress.drawing import html, live

    if handle is not None:
        with ticking(lambda: handle.update(html(meter, time.monotonic() - began))):
            yield
    elif can_draw(sys.stderr):
        with live(meter):
            yield
    else:
        with ticking(lines.look):
            yield


def _notebook() -> Any:  # noqa: ANN401 (a handle of IPython's)
    """Return a place in the output of a notebook's cell; None outside of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

    return display(HTML(""), display_id=True)
