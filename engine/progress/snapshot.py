"""What is seen of a run at one moment, and the sentences that say it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engine.progress.names import about, capital
from engine.reports.units import write_duration, write_measure, write_number

_MEASURES = 2
"""Metrics that are said of an outer step beside its losses."""

BETWEEN = "between two stages"
"""Where a run is while nothing is at work."""


@dataclass(frozen=True)
class OuterLine:
    """The scores of the model that an outer step has trained.

    Attributes:
        number: n.
        loss: On the split that chooses.
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
        name: Of the stage, in words.
        share: Which part of it is done, 0 to 1; None if that is not known.
        step: The step that was done last; None before the first.
        num_steps: T.
        is_reversed: Whether that step was reversed.
        seconds: Since it began.
        is_run: Whether it is a run with a board of its own, which is shown too.
        words: What is at work inside of it, the widest first.
    """

    name: str
    share: float | None
    step: int | None
    num_steps: int
    is_reversed: bool
    seconds: float
    is_run: bool = False
    words: tuple[str, ...] = ()

    @property
    def work(self) -> str:
        """What is at work, in words."""
        return ": ".join((self.name, *self.words))


@dataclass(frozen=True)
class Snapshot:
    """A board at one moment.

    Attributes:
        title: Of the run.
        share: Which part of it is done, 0 to 1.
        elapsed: Seconds since it began.
        left: Seconds that it still takes; None if nothing can be said.
        done: Finished stages.
        total: Stages that it will have.
        cached: Finished stages that were there already.
        running: Stages at work.
        words: What is at work where no stage is, the widest first.
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
            first, *rest = self.running
            return f"{first.work} and {len(rest)} more" if rest else first.work
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

    def outer_sentence(self, place: int, *, timed: bool = True, room: int | None = None) -> str:
        """Say what came of an outer step, and how it compares with those before.

        Args:
            place: Among those that are scored.
            timed: Whether it says the time too, which some displays show beside it.
            room: Columns of the line; it says less where all would need more. None: no bound.
        """
        line = self.outer[place]
        measured = line.measured()
        objective = []
        if line.objective is not None:
            objective = [f"objective {write_number(line.objective)}"]
        # As much is left out of every line: they are read in columns.
        shorter = [[*measured, *objective], [*measured[:1], *objective], measured[:1], []]
        heads = [self._outer_words(line, parts) for parts in shorter]
        ends = len(_standing(self.num_outer, short=True))
        words = _first_fitting(heads, None if room is None else room - ends)
        if place:
            # The best until then: where a run goes on, all that were there are said at once.
            best = None if line.best == place else self.outer[line.best].number
            ways = [words + _standing(best, short=short) for short in (False, True)]
            words = _first_fitting(ways, room)
        if not timed:
            return words
        times = [f"{write_duration(line.seconds)} gone"] if line.seconds >= 1 else []
        if self.left is not None:
            times.append(f"{about(self.left)} left")
        return f"{words}; {', '.join(times)}" if times else words

    def _outer_words(self, line: OuterLine, parts: list[str]) -> str:
        said = ", ".join([f"{self.judge} loss {write_number(line.loss)}", *parts])
        return f"outer step {line.number} of {self.num_outer}: {said}"


def _standing(best: int | None, *, short: bool) -> str:
    """Say which outer step is the best so far; None is the one that is spoken of."""
    if best is None:
        return " (best)" if short else " (best so far)"
    return f" (best: {best})" if short else f" (best: outer step {best})"


def _first_fitting(ways: list[str], room: int | None) -> str:
    """Return the first that is no longer than the room that there is, or else the last."""
    return next((each for each in ways if room is None or len(each) <= room), ways[-1])
