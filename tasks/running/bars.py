"""Progress artifacts of Prefect's UI: a bar with a sentence, one for a run and all of its parts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from engine.progress.board import Board, Course
from engine.progress.meter import Meter, listening
from engine.progress.names import about
from tasks.running.artifacts import earlier_artifact


class Shown(Protocol):
    """Interface of an object that shows the progress of a run."""

    def show(self, percent: float, sentence: str) -> None:
        """Show the progress."""
        ...


class Bar:
    """An artifact that is rewritten in its place, also after another process has made it.

    Args:
        key: Key of the artifact.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._artifact: UUID | None = None
        self._wanted: tuple[float, str] | None = None
        self._shown: tuple[float, str] | None = None
        self._at_it = threading.Lock()

    def show(self, percent: float, sentence: str) -> None:
        """Show the progress of a run; an error is ignored until the next call.

        Nobody waits for another thread, which may ask a server that is away for minutes: it will
        show what is newest then.
        """
        self._wanted = (round(percent, 1), sentence)
        while self._wanted != self._shown:
            if not self._at_it.acquire(blocking=False):
                return
            try:
                self._send(self._wanted)
            except Exception:  # a bar that moves is not worth a run
                return
            finally:
                self._at_it.release()

    def _send(self, wanted: tuple[float, str]) -> None:
        percent, sentence = wanted
        if self._artifact is None:
            self._artifact = earlier_artifact(self._key) or cast(
                UUID, create_progress_artifact(percent, key=self._key, description=sentence)
            )
        update_progress_artifact(self._artifact, percent, description=sentence)
        self._shown = wanted


class Parts:
    """Progress of a run whose parts are runs of their own: on a board, and in a bar.

    Args:
        key: Key of its artifact.
        course: Its parts as works, by kinds.
    """

    def __init__(self, key: str, course: Course) -> None:
        self.board = Board(course, listening() or Meter())
        self._bar = Bar(key)

    def begin(self, name: str, kind: str) -> "ShownPart":
        """Begin a part of the run, and return it."""
        part = ShownPart(self, name)
        self.board.begin(name, kind, share=part.share)
        return part

    def end(self, part: "ShownPart") -> None:
        """Note that a part is done; one that was committed already, or failed, is not timed."""
        seen = None if part.board is None else part.board.snapshot()
        is_cached = seen is not None and seen.cached == seen.done
        timed = seen is not None and seen.is_finished
        self.board.end(part.name, cached=is_cached, timed=timed)

    def show_sentence(self, sentence: str) -> None:
        """Show the progress of a part, and of all of them."""
        seen = self.board.snapshot()
        left = "" if seen.left is None else f" All parts: {about(seen.left)} left."
        self._bar.show(100 * seen.share, sentence + left)

    def finish(self) -> None:
        """Show that all of them are done, as fewer may be needed than there could be."""
        self.board.finish()
        seen = self.board.snapshot()
        self._bar.show(100.0, seen.sentence())


class ShownPart:
    """A part of a run, whose progress is shown as a share of the whole.

    Args:
        whole: What it is a part of.
        name: What people call it.

    Attributes:
        board: Where it stands itself, once it has begun.
    """

    def __init__(self, whole: Parts, name: str) -> None:
        self._whole, self.name = whole, name
        self.board: Board | None = None

    def share(self) -> float | None:
        """Return the share of it that is done, 0 to 1; None before it has begun."""
        return None if self.board is None else self.board.snapshot().share

    def show(self, percent: float, sentence: str) -> None:
        """Show the progress of the part."""
        del percent  # the board has it
        self._whole.show_sentence(f"{self.name}: {sentence}")


_PART: ContextVar[ShownPart | None] = ContextVar("part", default=None)


def this_part() -> ShownPart | None:
    """Return the part of another run that is carried out here; None for a run by itself."""
    return _PART.get()


@contextmanager
def as_part(whole: Parts, name: str, kind: str) -> Iterator[None]:
    """Let the run that is carried out inside the block be a part of another one.

    Args:
        whole: The other one.
        name: What people call the part, e.g. what is tried there.
        kind: Kind of the part, among the works of the other one.
    """
    part = whole.begin(name, kind)
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)
    whole.end(part)
