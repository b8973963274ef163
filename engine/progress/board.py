"""Progress of a run: its stages, its outer steps, and the time that is left.

Whoever carries a run out writes on its board; a terminal, a notebook and Prefect's UI look at it
(``Board.seen``) when they like, from threads of their own.
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
from engine.progress.names import about, capital, in_words, part_in_words
from engine.progress.time_left import REPLAY, REPORT, UPDATE, TimeLeft, Work
from engine.recipes.descent import OuterSettings
from engine.reports.units import measures, write_duration, write_measure, write_number

_NO_STAGES = (REPORT, REPLAY)
"""Kinds of works that are not counted as stages."""

_MEASURES = 2
"""Metrics that are said of an outer step beside its losses."""

BETWEEN = "between two stages"
"""Where a run is while nothing is at work."""

MOST_SHOWN = 0.999
"""Share of a run that is shown at most before its end."""


@dataclass(frozen=True)
class OuterLine:
    """The scores of the model that an outer step has trained.

    Attributes:
        number: n.
        loss: Loss on the split that chooses.
        objective: Loss on the objective; None if that is the split that chooses.
        measures: What was measured besides on the split that chooses: accuracy, own metrics.
        seconds: Since the run began.
        best: Place of the best of the outer steps until this one, among those that were scored.
    """

    number: int
    loss: float
    objective: float | None
    measures: Mapping[str, float]
    seconds: float
    best: int

    def of(self, name: str) -> float:
        """Return the loss, or a measure by its name; not a number if there is none."""
        return self.loss if name == "loss" else self.measures.get(name, math.nan)

    def measured(self) -> list[str]:
        """Return the first measures, as many as a line has room for, each as a clause."""
        first = list(self.measures.items())[:_MEASURES]
        return [f"{name} {write_measure(name, value)}" for name, value in first]


@dataclass(frozen=True)
class Running:
    """A stage at work.

    Attributes:
        name: Name of the stage, in words.
        share: Which part of it is done, 0 to 1; None if that is not known.
        step: The step that was done last; None before the first.
        num_steps: T.
        is_reversed: Whether that step was reversed.
        seconds: Since it began.
        is_run: Whether it is a run with a board of its own, which is shown too.
    """

    name: str
    share: float | None
    step: int | None
    num_steps: int
    is_reversed: bool
    seconds: float
    is_run: bool = False


@dataclass(frozen=True)
class Seen:
    """A board at one moment.

    Attributes:
        title: Title of the run.
        share: Which part of it is done, 0 to 1.
        elapsed: Seconds since it began.
        left: Seconds that it still takes; None if nothing can be said.
        done: Finished stages.
        total: Stages that it will have.
        cached: Finished stages that were there already.
        running: Stages at work.
        words: What is at work besides, the widest first.
        outer: Outer steps whose model is scored.
        num_outer: Outer steps that there will be; 0 if there are none.
        best: Place of the best of them; None before the first.
        judge: The split that chooses it.
        choose_by: What is measured there to choose it.
        noun: What its stages are called.
        is_finished: Whether the run has come to its end.
        parts: Kinds of stages, each with how many are done and how many there will be.
    """

    title: str
    share: float
    elapsed: float
    left: float | None
    done: int
    total: int
    cached: int
    running: tuple[Running, ...]
    words: tuple[str, ...]
    outer: tuple[OuterLine, ...]
    num_outer: int
    best: int | None
    judge: str
    is_finished: bool
    parts: tuple[tuple[str, int, int], ...] = ()
    choose_by: str = "loss"
    noun: str = "stages"

    @property
    def work(self) -> str:
        """What is at work, in words."""
        if self.is_finished:
            return "finished"
        if self.running:
            first = self.running[0]
            inner = "".join(f": {each}" for each in self.words)
            others = f" and {len(self.running) - 1} more" if len(self.running) > 1 else ""
            return f"{first.name}{inner}{others}"
        return ": ".join(self.words) or BETWEEN

    def sentence(self) -> str:
        """Say where the run stands."""
        if self.is_finished:
            cached = f", {self.cached} of them already there" if self.cached else ""
            return f"Finished: {self.done} {self.noun} in {write_duration(self.elapsed)}{cached}."
        parts = [self.work]
        if self.left is not None:
            parts.append(f"{about(self.left)} left")
        if self.best is not None:
            parts.append(f"best {self.judge} {self.choose_by} {self.best_figure()}")
        sentence = ", ".join(parts)
        return f"{capital(sentence)}."

    def best_figure(self) -> str:
        """Write what the best outer step until now is chosen by; empty before the first."""
        if self.best is None:
            return ""
        return write_measure(self.choose_by, self.outer[self.best].of(self.choose_by))

    def outer_sentence(self, place: int, *, timed: bool = True) -> str:
        """Say what came of an outer step, and how it compares with those before.

        Args:
            place: Among those that are scored.
            timed: Whether it says the time too, which some displays show beside it.
        """
        line = self.outer[place]
        parts = [f"{self.judge} loss {write_number(line.loss)}"]
        parts += line.measured()
        if line.objective is not None:
            parts.append(f"objective {write_number(line.objective)}")
        words = f"outer step {line.number} of {self.num_outer}: {', '.join(parts)}"
        if place:
            # The best until then: where a run goes on, all that were there are said at once.
            is_best, number = line.best == place, self.outer[line.best].number
            words += " (best so far)" if is_best else f" (best: outer step {number})"
        if not timed:
            return words
        times = [f"{write_duration(line.seconds)} gone"] if line.seconds >= 1 else []
        if self.left is not None:
            times.append(f"{about(self.left)} left")
        return f"{words}; {', '.join(times)}" if times else words


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
    ) -> None:
        """Note that a stage begins.

        Args:
            name: Name of the stage in its run.
            kind: Kind of stage.
            meter: Meter on which its steps are written; that of the board by default.
            share: Says which part of it is done, where it is a run with a board of its own.
        """
        if meter is None and share is None:
            self.meter.restart()
        with self._lock:
            now = self._clock()
            work = self._time.begin(name, kind, now)
            self._stages[name] = _Stage(name, work, now, meter, share)

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

    def abandon(self) -> None:
        """Take the board from its meter: its run has stopped, others may go on."""
        self.meter.boards.remove(self)

    def seen(self) -> Seen:
        """Return where the run stands now."""
        with self._lock:
            now = self._clock() if self._ended is None else self._ended
            running = tuple(self._running(each, now) for each in self._stages.values())
            over = self._ended is not None
            # What is left may turn out to be more, but nobody wants to see a bar that goes back.
            self._share = max(self._share, min(self._time.share(now), MOST_SHOWN))
            return Seen(
                title=self._course.title,
                share=1.0 if over else self._share,
                elapsed=now - self._began,
                left=None if over else self._time.left(now),
                done=self._done,
                total=max(self.total, self._done + len(running)),
                cached=self._cached,
                running=running,
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
        )
