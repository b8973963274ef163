"""Progress of a computation, as numbers that it writes and listeners read at any time.

Nobody listens by default: that costs a look at a context variable for each schedule that is carried
out, and a comparison with None for each step. A listener is not called, because whatever it did
would be done between two steps of a training; it hands in a ``Meter`` (``heard_by``), on which a
step writes three numbers, and reads it at a pace of its own. Nothing of a meter reaches a result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.progress.board import Board


class Meter:
    """What a computation writes while it goes on; one thread writes, others read.

    Attributes:
        words: What is at work, the widest first, e.g. ``["preflight", "replay"]``.
        step: The step that was done last, counted from 0.
        num_steps: T, of the run that it belongs to; 0 before there is one.
        is_reversed: Whether it was reversed.
        forward: Steps run forward since the last ``restart``, replayed ones included.
        reverse: Steps reversed since then.
        boards: Where the runs stand that are told of here, see ``engine.progress.board``.
        awaits: What the whole run is called that is about to begin and gets a board of its own;
            empty where another board has it as a part.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self.step = self.num_steps = self.forward = self.reverse = 0
        self.is_reversed = False
        self.boards: list[Board] = []
        self.awaits = ""

    def ran(self, step: int, num_steps: int, runs: int = 1) -> None:
        """Note a step of T that was run forward, of so many runs at once."""
        self.step, self.num_steps, self.is_reversed = step, num_steps, False
        self.forward += runs

    def pulled(self, step: int, num_steps: int) -> None:
        """Note a step of T that was reversed."""
        self.step, self.num_steps, self.is_reversed = step, num_steps, True
        self.reverse += 1

    def restart(self) -> None:
        """Begin to count anew, as when another stage begins."""
        self.step = self.num_steps = self.forward = self.reverse = 0
        self.is_reversed = False

    @property
    def work(self) -> str:
        """What is at work, in words; empty if nothing was named."""
        return ": ".join(self.words)


_heard: ContextVar[Meter | None] = ContextVar("meter", default=None)


def listening() -> Meter | None:
    """Return who listens to what is computed here; None if nobody does."""
    return _heard.get()


@contextmanager
def heard_by(meter: Meter | None) -> Iterator[None]:
    """Let what is computed inside the block be noted on a meter; on none with None."""
    token = _heard.set(meter)
    try:
        yield
    finally:
        _heard.reset(token)


@contextmanager
def doing(words: str) -> Iterator[None]:
    """Name what is at work inside the block, as a part of what is named around it."""
    meter = _heard.get()
    if meter is None:
        yield
        return
    meter.words = [*meter.words, words]  # a new list: whoever reads has a whole one
    try:
        yield
    finally:
        meter.words = meter.words[:-1]
