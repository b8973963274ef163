"""Progress artifacts of Prefect's UI: a bar with a sentence, one for a run and all of its parts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.running.artifacts import earlier_artifact


class Shown(Protocol):
    """Who is told where a run stands."""

    def show(self, percent: float, sentence: str) -> None:
        """Tell it."""
        ...


class Bar:
    """An artifact that is rewritten in its place, also after another process has made it.

    Args:
        key: Of the artifact.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._artifact: UUID | None = None
        self._wanted: tuple[float, str] | None = None
        self._shown: tuple[float, str] | None = None
        self._at_it = threading.Lock()

    def show(self, percent: float, sentence: str) -> None:
        """Show where a run stands; what fails is left out until the next time.

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
    """The bar of a run whose parts are runs of their own.

    Args:
        key: Of its artifact.
        number: Of the parts that there will be, which count alike.
    """

    def __init__(self, key: str, number: int) -> None:
        self._bar, self._number = Bar(key), number
        self._percents: list[float] = []

    def begin(self, name: str) -> "Part":
        """Return what a part is told of from its beginning on."""
        self._percents.append(0.0)
        return Part(self, len(self._percents) - 1, name)

    def told(self, place: int, percent: float, sentence: str) -> None:
        """Show where a part stands."""
        self._percents[place] = percent
        self._bar.show(sum(self._percents) / max(self._number, len(self._percents)), sentence)

    def finish(self) -> None:
        """Show that all of them are done, as fewer may be needed than there could be."""
        self._bar.show(100.0, f"Finished: {len(self._percents)} parts.")


class Part:
    """One of them.

    Args:
        whole: What it is a part of.
        place: Among those that have begun.
        name: What people call it.
    """

    def __init__(self, whole: Parts, place: int, name: str) -> None:
        self._whole, self._place, self.name = whole, place, name

    def show(self, percent: float, sentence: str) -> None:
        """Show where it stands."""
        self._whole.told(self._place, percent, f"{self.name}: {sentence}")


_PART: ContextVar[Part | None] = ContextVar("part", default=None)


def this_part() -> Part | None:
    """Return which part of another run is carried out here; None if it is a run by itself."""
    return _PART.get()


@contextmanager
def as_part(whole: Parts, name: str) -> Iterator[None]:
    """Let the run that is carried out inside the block be a part of another one.

    Args:
        whole: The other one.
        name: What people call the part, e.g. what is tried there.
    """
    token = _PART.set(whole.begin(name))
    try:
        yield
    finally:
        _PART.reset(token)
