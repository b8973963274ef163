"""Progress of a run: its stages, its outer steps, and the time that is left.

Whoever carries a run out writes on its board; a terminal, a notebook and Prefect's UI look at it
(``Board.snapshot``) when they like, from threads of their own.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.progress.meter import Meter, listening
from engine.progress.names import in_words, part_in_words
from engine.progress.snapshot import OuterLine, Running, Snapshot
from engine.progress.time_left import REPLAY, REPORT, UPDATE, TimeLeft, Work
from engine.recipes.descent import OuterSettings
from engine.reports.units import measures

_NO_STAGES = (REPORT, REPLAY)
"""Kinds of works that are not counted as stages."""

MOST_SHOWN = 0.999
"""Share of a run that is shown at most before its end."""


@contextmanager
def one_work(count: Callable[[str], Work], name: str = "train and reverse") -> Iterator[None]:
    """Put the block on a board of its own, as one work, if whoever listens awaits that.

    Args:
        count: Returns the work, given its kind; not asked where nobody listens.
        name: What the work is, in words.
    """
    meter = listening()
    if meter is None or not meter.awaits:
        yield
        return
    title, meter.awaits = meter.awaits, ""
    board = Board(Course(title, [count("run")]), meter)
    board.begin(name, "run")
    yield
    board.end(name)
    board.finish()


@dataclass
class _Stage:
    name: str
    work: Work
    at: float
    meter: Meter | None = None
    share: "Callable[[], float | None] | None" = None


@dataclass(frozen=True)
class Course:
    """What a run will do.

    Attributes:
        title: Title of the run, for people.
        works: Stages of the run.
        in_seconds: Whether their weights are seconds.
        judge: The split that chooses among them.
        outer: Says what is measured there to choose, and whether the highest is looked for.
        noun: What its stages are called.
    """

    title: str
    works: Iterable[Work] = field(default=())
    in_seconds: bool = False
    judge: str = "validation"
    outer: OuterSettings = field(default_factory=OuterSettings)
    noun: str = "stages"


class Board:
    """Where a run stands; any thread may write or look.

    Args:
        course: What the run will do.
        meter: Meter on which the engine writes what it does in this process.
        clock: Seconds, only forward.
    """

    def __init__(
        self, course: Course, meter: Meter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._course, self._clock, self.meter = course, clock, meter
        works = list(course.works)
        self._num_outer = sum(work.kind == UPDATE for work in works)
        self._moves = any(work.kind in (UPDATE, "move-canaries") for work in works)
        self.total = sum(work.kind not in _NO_STAGES for work in works)
        self._time = TimeLeft(works, in_seconds=course.in_seconds)
        self._lock = threading.RLock()
        self._stages: dict[str, _Stage] = {}
        self._awaited: tuple[str, float] | None = None
        self._expected = Counter(work.kind for work in works if work.kind not in _NO_STAGES)
        self._done_of: Counter[str] = Counter()
        self._outer: list[OuterLine] = []
        self._began = clock()
        self._ended: float | None = None
        self._done = self._cached = 0
        self._share = 0.0
        meter.words = []  # what led to the run is over; from now on it says itself what it is at
        meter.boards.append(self)

    def begin(
        self,
        name: str,
        kind: str,
        *,
        meter: Meter | None = None,
        share: Callable[[], float | None] | None = None,
        ago: float = 0.0,
    ) -> None:
        """Note that a stage begins.

        Args:
            name: Name of the stage in its run.
            kind: Kind of stage.
            meter: Meter on which its steps are written; that of the board by default.
            share: Says which part of it is done, where it is a run with a board of its own.
            ago: Seconds since then, where it is heard of late.
        """
        if meter is None and share is None:
            self.meter.restart()
        with self._lock:
            began = self._clock() - ago
            work = self._time.begin(name, kind, began)
            self._stages[name] = _Stage(name, work, began, meter, share)

    def awaits(self, name: str | None) -> None:
        """Note the stage that other processes were handed and the run waits for; None: none."""
        with self._lock:
            self._awaited = None if name is None else (name, self._clock())

    def end(self, name: str, *, cached: bool = False, timed: bool = True) -> None:
        """Note that a stage is done.

        Args:
            name: Name of the stage in its run.
            cached: Whether it was found done.
            timed: Whether it took the time since its beginning.
        """
        with self._lock:
            stage = self._stages.pop(name, None)
            if stage is None:
                return
            self._time.end(name, self._clock(), cached=cached or not timed)
            if stage.work.kind not in _NO_STAGES:
                self._done += 1
                self._done_of[stage.work.kind] += 1
                self._cached += cached

    @contextmanager
    def at_work(self, name: str, kind: str) -> Iterator[None]:
        """Note a stage that is carried out inside the block."""
        self.begin(name, kind)
        yield
        self.end(name)

    def drop(self, name: str) -> None:
        """Note that a stage is no longer at work, and not done either."""
        with self._lock:
            self._stages.pop(name, None)
            self._time.drop(name)

    def scored(self, number: int, scores: Mapping[str, Mapping[str, Any]]) -> int:
        """Note the scores of the model of an outer step; return its place among them."""
        judge = self._course.judge
        if judge not in scores:
            judge = next(iter(scores))
        mine, objective = scores[judge], scores.get("objective")
        with self._lock:
            place = len(self._outer)
            outer = self._course.outer
            found = [line.of(outer.choose_by) for line in self._outer]
            found.append(float(mine.get(outer.choose_by, math.nan)))
            self._outer.append(
                OuterLine(
                    number,
                    float(mine["loss"]),
                    float(objective["loss"]) if objective and judge != "objective" else None,
                    measures(mine),
                    self._clock() - self._began,
                    outer.best(found),
                )
            )
            return place

    def finish(self) -> None:
        """Note that the run has come to its end."""
        with self._lock:
            if self._ended is None:
                self._ended = self._clock()
            self._stages.clear()
            self._awaited = None

    def abandon(self) -> None:
        """Take the board from its meter: its run has stopped, others may go on."""
        self.meter.boards.remove(self)

    def snapshot(self) -> Snapshot:
        """Return where the run stands now."""
        with self._lock:
            now = self._clock() if self._ended is None else self._ended
            running = tuple(self._running(each, now) for each in self._stages.values())
            total = max(self.total, self._done + len(running))
            over = self._ended is not None
            # Where workers only start, their first stage says how long the others will take.
            unknown = over or (self._awaited is not None and not self._done and not running)
            # What is left may turn out to be more, but nobody wants to see a bar that goes back.
            self._share = max(self._share, min(self._time.share(now), MOST_SHOWN))
            return Snapshot(
                title=self._course.title,
                share=1.0 if over else self._share,
                elapsed=now - self._began,
                left=None if unknown else self._time.left(now),
                done=self._done,
                total=total,
                cached=self._cached,
                running=running or self._handed_over(now),
                words=tuple(self.meter.words),
                outer=tuple(self._outer),
                num_outer=self._num_outer,
                best=self._outer[-1].best if self._outer else None,
                judge=self._course.judge,
                is_finished=over,
                choose_by=self._course.outer.choose_by,
                noun=self._course.noun,
                parts=tuple(
                    (part_in_words(kind), done, max(self._expected[kind], done))
                    for kind in dict.fromkeys([*self._expected, *self._done_of])
                    for done in [self._done_of[kind]]
                ),
            )

    def _running(self, stage: _Stage, now: float) -> Running:
        meter = stage.meter or self.meter
        is_run = stage.share is not None
        share = stage.share() if stage.share else stage.work.share(meter.forward, meter.reverse)
        self._time.reached(stage.name, share, now)
        moved = not is_run and meter.forward + meter.reverse > 0
        return Running(
            name=in_words(stage.name, has_outer_steps=self._moves),
            share=share,
            step=meter.step if moved else None,
            num_steps=meter.num_steps,
            is_reversed=meter.is_reversed,
            seconds=now - stage.at,
            is_run=is_run,
            words=tuple(meter.words),
        )

    def _handed_over(self, now: float) -> tuple[Running, ...]:
        """Return the stage that is awaited, as long as nobody has heard of it."""
        if self._awaited is None:
            return ()
        name, since = self._awaited
        words = f"{in_words(name, has_outer_steps=self._moves)}, handed to the workers"
        return (Running(words, None, None, 0, is_reversed=False, seconds=now - since),)
