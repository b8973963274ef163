"""How far stages in other processes are: each tells it, and the flow hears it.

The process that carries out a stage tells it as an event of Dask's where it is one of its workers,
which the flow hears at once. A worker of Ray's shares nothing with the flow but the store: it
writes a small file beside the run every few seconds, and takes it away at the end. Nothing depends
on either: what does not arrive leaves the picture as it was.

Whoever reaches the scheduler, or may write to the store, can tell something too. So a message is
checked before it is noted: one number that is none would leave the whole run without progress.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field, StringConstraints

from engine.progress.board import Board
from engine.progress.meter import Meter, heard_by, listening
from engine.recipes.execution import RunnerName
from engine.recipes.settings import Document
from engine.reports.units import number_in
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.storage.location import join, list_files, remove_file
from engine.storage.names import claimed_label, label
from engine.storage.places import PROGRESS, stage_record_url
from engine.storage.records import SMALL, read_record, read_records, write_record
from engine.storage.safe_names import StageKind

WRITE_SECONDS = 2.0
"""Time between two files of a stage."""

EVENT_SECONDS = 0.5
"""Time between two events of a stage."""

Message = dict[str, Any]
"""What a stage tells of itself: names and numbers only."""

MOST_STAGES = 10_000
"""Stages that are at work at once, or are said to be done before the flow has seen it."""

_LONGEST = 200
"""Letters of a name, or of what is at work."""

_MOST_STEPS = 10**12


def _printable(text: str) -> str:
    """Refuse a name that would move the cursor, or begin a line of its own in a log.

    Raises:
        ValueError: If it has a character that does not print.
    """
    if not text.isprintable():
        raise ValueError("a character of it does not print")
    return text


def _one_printable_line(words: str) -> str:
    """Return the words for a stage at work, without unprintable signs, cut to one line."""
    return "".join(each for each in words if each.isprintable())[:_LONGEST]


_Name = Annotated[
    str, StringConstraints(min_length=1, max_length=_LONGEST), AfterValidator(_printable)
]
_Count = Annotated[int, Field(ge=0, le=_MOST_STEPS)]


class _Told(Document):
    """A message that is understood."""

    stage: StageKind
    """Kind of stage."""

    name: _Name
    """Name of the stage in its run."""

    seconds: Annotated[float, Field(ge=0, le=1e9)]
    """Since it began."""

    step: _Count
    """As of ``Meter``."""

    num_steps: _Count
    """The same."""

    forward: _Count
    """The same."""

    reverse: _Count
    """The same."""

    is_reversed: bool
    """The same."""

    words: Annotated[
        list[Annotated[str, AfterValidator(_one_printable_line)]], Field(max_length=20)
    ]
    """The same."""

    is_over: bool = False
    """Whether the stage is no longer at work."""

    is_done: bool = False
    """Whether it has come to its end."""


Hear = Callable[[str, Callable[[Message], None]], None]
"""Lets a function be called with every message of a topic, from a thread of its own."""


class _Channel(Protocol):
    """Takes what a stage tells.

    Attributes:
        seconds: Time between two messages.
    """

    seconds: float

    def tell(self, message: Message) -> None:
        """Tell how far the stage is."""
        ...

    def end(self, message: Message) -> None:
        """Tell that it is no longer at work."""
        ...


class _Events:
    """Events of a worker of Dask's.

    Args:
        worker: The worker, in whose process the stage is.
        topic: Of the run.
    """

    def __init__(self, worker: Any, topic: str) -> None:  # noqa: ANN401 (Dask's)
        self._worker, self._topic, self.seconds = worker, topic, EVENT_SECONDS

    def tell(self, message: Message) -> None:
        """Send an event."""
        self._worker.log_event(self._topic, message)

    end = tell


class _Files:
    """A file in the store.

    Args:
        url: Where.
    """

    def __init__(self, url: str) -> None:
        self._url, self.seconds = url, WRITE_SECONDS

    def tell(self, message: Message) -> None:
        """Write it anew."""
        write_record(self._url, message)

    def end(self, message: Message) -> None:
        """Take it away."""
        del message
        remove_file(self._url)


@contextmanager
def reporting_stage(run: Run, stage: str, key: str, name: str) -> Iterator[None]:
    """Let the flow hear of a stage that is carried out inside the block, if that is elsewhere."""
    if listening() is not None or run.recipe.workers.runner is RunnerName.LOCAL:
        yield
        return
    meter, over, began, is_done = Meter(), threading.Event(), time.monotonic(), False
    channel = _channel(run, f"{label(stage, key)}.json")

    def message(**end: bool) -> Message:
        about = {"stage": stage, "name": name, "seconds": time.monotonic() - began}
        return about | _content(meter) | end

    def tell() -> None:
        while True:
            with suppress(Exception):
                channel.tell(message())
            if over.wait(channel.seconds):
                return

    thread = threading.Thread(target=tell, daemon=True, name=f"progress of {name}")
    thread.start()
    try:
        with heard_by(meter):
            yield
        is_done = True
    finally:
        over.set()
        thread.join(timeout=5)
        with suppress(Exception):
            channel.end(message(is_over=True, is_done=is_done))


def _channel(run: Run, name: str) -> _Channel:
    """Return the channel from this process to the flow."""
    folder = run.file(PROGRESS)
    if run.recipe.workers.runner is RunnerName.DASK:
        from distributed import get_worker

        with suppress(ValueError):  # no worker of Dask's
            return _Events(get_worker(), folder)
    return _Files(join(folder, name))


class Elsewhere:
    """Puts what other processes tell of their stages on the board of a run.

    Args:
        run: The run.
        board: Board of the run.
        hear: Lets their events be heard; None where they write files.
    """

    def __init__(self, run: Run, board: Board, hear: Hear | None = None) -> None:
        self._store, self._folder, self._board = run.store, run.file(PROGRESS), board
        self._lock = threading.Lock()  # some threads hear, another one waits for stages
        self._meters: dict[str, Meter] = {}
        self._ended: set[str] = set()
        self._told_done: set[str] = set()
        for url in self._urls():  # of processes that are no more
            with suppress(Exception):
                remove_file(url)
        if hear is not None:
            hear(self._folder, self.receive)

    def look(self) -> None:
        """Read the files; a stage that is new begins."""
        with suppress(Exception):
            for record in read_records(self._urls(), largest=SMALL).values():
                if record is not None:
                    self.receive(record)

    def receive(self, message: Message) -> None:
        """Note what a stage tells; what is not understood is left out."""
        with suppress(Exception), self._lock:
            self._note(message)

    def begin(self, name: str) -> None:
        """Note that the run waits for a stage from now on."""
        self._board.awaits(name)

    def end(self, name: str, kind: str, ref: Ref, *, cached: bool) -> None:
        """Note that a stage is done, also one that was too short to be heard of.

        Its file may be read once more, or stay behind where its worker died.
        """
        with self._lock:
            self._board.awaits(None)
            self._ended.add(name)
            if name in self._told_done:
                self._told_done.remove(name)
                return
            timed = self._meters.pop(name, None) is not None
            if not timed:
                seconds = None if cached else self._seconds(ref)
                timed = seconds is not None
                self._board.begin(name, kind, meter=Meter(), ago=seconds or 0.0)
            self._board.end(name, cached=cached, timed=timed)

    def drop(self, name: str) -> None:
        """Note that a stage is no longer at work, and may begin again."""
        with self._lock:
            self._board.awaits(None)
            self._meters.pop(name, None)
            self._board.drop(name)

    def _urls(self) -> list[str]:
        with suppress(Exception):
            names = [name for name in list_files(self._folder) if claimed_label(name)]
            return [join(self._folder, name) for name in names]
        return []

    def _seconds(self, ref: Ref) -> float | None:
        """Return the seconds of a stage; None if they cannot be read."""
        with suppress(Exception):
            record = read_record(stage_record_url(self._store, ref.stage, ref.key))
            return None if record is None else number_in(record, "seconds")
        return None

    def _note(self, message: Message) -> None:
        told = _Told.model_validate(message)
        if told.name in self._ended:
            return
        meter = self._meters.get(told.name)
        if meter is None:
            if max(len(self._meters), len(self._told_done)) >= MOST_STAGES:
                return
            meter = self._meters[told.name] = Meter()
            self._board.begin(told.name, told.stage, meter=meter, ago=told.seconds)
        meter.step, meter.num_steps = told.step, told.num_steps
        meter.forward, meter.reverse = told.forward, told.reverse
        meter.is_reversed, meter.words = told.is_reversed, told.words
        if not told.is_over:
            return
        del self._meters[told.name]
        if told.is_done:
            self._ended.add(told.name)
            self._told_done.add(told.name)
            self._board.end(told.name)
        else:  # it may be tried again
            self._board.drop(told.name)


def _content(meter: Meter) -> Message:
    return {
        "step": meter.step,
        "num_steps": meter.num_steps,
        "forward": meter.forward,
        "reverse": meter.reverse,
        "is_reversed": meter.is_reversed,
        "words": list(meter.words),
    }
