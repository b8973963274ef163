"""What a run told of itself, written down, and told again to an estimate of the time left.

A stream is JSON: the works of the run, whether their weights are seconds, and events, each with its
time by the wall and by the processor: ``begin`` (name, kind), ``reached`` (name, share), ``end``
(name, whether it was cached), and ``look``, when somebody asked for the time left.

The clock of the processor counts what the process has computed. On a machine that others use it is
the one by which a pace can be known: no estimate knows when another program begins or ends.
"""

import json
import time
from pathlib import Path

from engine.progress.time_left import TimeLeft, Work

WALL, CPU = 0, 1
"""The clocks of a stream."""

FOLDER = Path(__file__).parents[2] / "engine" / "progress" / "streams"
"""Streams of a machine that did nothing else; a benchmark writes them anew."""

BUSY = FOLDER / "busy"
"""Streams whose plans were measured while twenty programs wanted two cores: by the clock of the
processor they are wrong by a factor of ten, and have to be corrected."""


class Recording(TimeLeft):
    """An estimate that writes down what it is told.

    Attributes:
        made: All that were made, the first one first.
    """

    made: "list[Recording]" = []

    def __init__(self, works, *, in_seconds):
        works = list(works)
        super().__init__(works, in_seconds=in_seconds)
        self.stream = {"in_seconds": in_seconds, "works": [_row(each) for each in works]}
        self.stream["events"] = self._events = []
        self._shares = {}
        self._now = 0.0
        self.made.append(self)

    def begin(self, name, kind, now):
        """Note that a work begins."""
        self._note(now, "begin", name, kind)
        return super().begin(name, kind, now)

    def reached(self, name, share, now):
        """Note which part is done; the time is that of the look that follows."""
        self._shares[name] = share
        super().reached(name, share, now)

    def left(self, now):
        """Note the parts that this look knows of."""
        for name, share in self._shares.items():
            if share is not None:
                self._note(now, "reached", name, round(share, 4))
        self._shares.clear()
        self._note(now, "look", "", None)
        return super().left(now)

    def end(self, name, now, *, cached=False):
        """Note that a work is done."""
        self._note(now, "end", name, cached)
        super().end(name, now, cached=cached)

    def _note(self, now, *event):
        self._events.append([round(now, 3), round(time.process_time(), 3), *event])


def _row(work):
    return [
        work.kind,
        round(work.weight, 5),
        work.forward,
        work.reverse,
        work.pull,
        work.rough,
        work.once,
    ]


def tell(stream, clock=CPU):
    """Tell a stream to an estimate, by one of its clocks.

    Returns:
        The seconds of the run, and for each event the seconds since its beginning, those that the
        estimate said were left, and those that were.
    """
    works = [Work(*row) for row in stream["works"]]
    estimate = TimeLeft(works, in_seconds=stream["in_seconds"])
    events = stream["events"]
    first, last = events[0][clock], events[-1][clock]
    seen = []
    for *times, what, name, value in events:
        now = times[clock]
        if what == "begin":
            estimate.begin(name, value, now)
        elif what == "reached":
            estimate.reached(name, value, now)
        elif what == "end":
            estimate.end(name, now, cached=value)
        seen.append((now - first, estimate.left(now), last - now))
    return last - first, seen


def errors(stream, clock=CPU, start=0.25, stop=0.9):
    """Return share of the run and relative error of the time left, for what was said between."""
    whole, seen = tell(stream, clock)
    return [
        (at / whole, abs(said - rest) / rest)
        for at, said, rest in seen
        if said is not None and start <= at / whole <= stop
    ]


def read_streams(folder=FOLDER):
    """Return the streams that are kept in a folder, by the recipe's name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
