"""Time that a run still takes, from the expected and the measured time of its parts.

A run is a list of ``Work``, each of a kind and with a weight: the seconds that a plan expects, or
plain steps where there is no plan. What a kind took, beside what it was expected to take, corrects
the rest of its kind, what was done last more than what was done first; a kind that has not been
seen is corrected as all others together. The work at hand counts by the pace of its steps, which is
taken from one look to another: what it does before its first step, such as loading, batching or
compiling, it does once, and it says nothing of the steps.
The slowest of the works that count is left out: what delayed it, such as a package that was loaded
or a report that was drawn meanwhile, says nothing of the others.
Time between works is counted for each work that is left, but for the longest that lay between two,
in which the processes of workers start, say; where works are done beside each other, the time of
the run beside the sum of its works is one more factor.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

REPORT = "report"
"""Kind of the end of a run, which is no stage but takes its time."""

REPLAY = "replay"
"""Kind of a work that is a part of another one, done ahead."""

UPDATE = "update"
"""Kind of the end of an outer step."""

PULL = 3.0
"""Plain steps that a reverse step costs, where nobody has measured it."""

_TRUST, _TRUST_IN_GUESS = 0.05, 0.2
"""Share of one work for which the expectation counts once works of its kind were measured. Works of
a kind whose weight is a guess are less like each other, so that one of them says less."""

_SHORTEST, _SURE = 0.2, 5.0
"""Seconds between two looks at a work at hand from which on they say how fast it is: the former
where the part that was done between them is worth the name, the latter however little it is."""

_SMALLEST = 0.1
"""Part of a work that is worth the name."""

_ENOUGH = 1.0
"""Seconds of works after which it is seen what lies between them, and which are done at once."""

_REMEMBERED = (4.0, 0.2)
"""How far back a pace is measured: so many works of a kind, or this share of all of them."""

_LAST = 0.3
"""Share of its time until now that a work takes at least, while nobody knows how far it is."""


@dataclass(frozen=True)
class Work:
    """A part of a run.

    Attributes:
        kind: What of, e.g. ``train``; works of a kind are as fast as each other.
        weight: Seconds that it is expected to take, or plain steps.
        forward: Steps that it runs forward; 0 if that is not known, so that nobody can say how far
            it is.
        reverse: Steps that it reverses.
        pull: Plain steps that one of those costs.
        rough: Whether its weight is a guess, which says nothing of other kinds.
        once: Plain steps that come with its last step alone, as where the losses of all candidates
            are injected at one step.
    """

    kind: str
    weight: float
    forward: int = 0
    reverse: int = 0
    pull: float = PULL
    rough: bool = False
    once: float = 0.0

    def share(self, forward: int, reverse: int) -> float | None:
        """Return which part is done, 0 to 1, after so many steps; None if that is not known."""
        whole = self.forward + self.pull * self.reverse + self.once
        if not whole:
            return None
        return min((min(forward, self.forward) + self.pull * reverse) / whole, 1.0)


@dataclass
class _Kind:
    """What is known of works of one kind: those to come, and what the others took."""

    one: float  # weight of its largest work
    rough: bool
    waiting: deque[Work] = field(default_factory=deque)
    whole: float = 0.0  # weight of all of them
    done: float = 0.0  # weight of what is done, also of what was found done
    recent: deque[tuple[float, float]] = field(default_factory=deque)  # weight, seconds

    def add(self, work: Work) -> None:
        """Expect one more work."""
        self.waiting.append(work)
        self.one = max(self.one, work.weight)
        self.whole += work.weight

    def measure(self, weight: float, seconds: float) -> None:
        """Note what a work took; what lies far back is forgotten."""
        number, share = _REMEMBERED
        window = max(number * self.one, share * self.whole)
        self.recent.append((weight, seconds))
        while sum(each for each, _ in self.recent) - self.recent[0][0] >= window > 0:
            self.recent.popleft()


def _pace(works: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the weight of some works, and the seconds of it without what delayed the slowest one.

    Args:
        works: Weight and seconds of each.
    """
    known = sorted((each for each in works if each[0] > 0), key=lambda each: each[1] / each[0])
    kept = known[:-1] or known
    if not kept:
        return 0.0, 0.0
    whole = math.fsum(weight for weight, _ in known)
    weight, seconds = (math.fsum(column) for column in zip(*kept, strict=True))
    return whole, seconds * whole / weight


@dataclass
class _Begun:
    """A work at hand.

    Attributes:
        work: The work.
        at: When it began, s.
        share: Which part is done, 0 to 1; None if that is not known.
        first: When somebody saw for the first time that a part was done, and which.
        last: The same of the last time that it was more than before. Where it stays the same, a
            step takes long that comes once, which says nothing of the others.
    """

    work: Work
    at: float
    share: float | None = None
    first: tuple[float, float] | None = None
    last: tuple[float, float] = (0.0, 0.0)

    def reached(self, share: float | None, now: float) -> None:
        """Note which part is done."""
        self.share = share
        if share and share > self.last[1]:
            self.first, self.last = self.first or (now, share), (now, share)

    def seconds(self) -> float | None:
        """Return the seconds of the whole work at the pace of its steps; None if nobody knows."""
        if self.first is None:
            return None
        (began, known), (at, share) = self.first, self.last
        part, gone = share - known, at - began
        if part <= 0 or gone <= (_SHORTEST if part >= _SMALLEST else _SURE):
            return None
        return began - self.at + (1 - known) * gone / part

    def rest(self, factor: float, now: float) -> float:
        """Return the seconds that it still takes, if a unit of weight takes ``factor``."""
        whole = factor * self.work.weight
        if self.share is None:
            gone = now - self.at
            return max(whole - gone, _LAST * gone)
        since = now - self.last[0] if self.share else 0.0
        return max((1 - self.share) * whole - since, _LAST * min(since, whole))


class TimeLeft:
    """The works of a run, those that are done, and the time of the others.

    Args:
        works: All that the run will do, those of a kind in their order.
        in_seconds: Whether weights are seconds; if they are steps, nothing is said of the time
            before something was measured.
    """

    def __init__(self, works: Iterable[Work], *, in_seconds: bool) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._in_seconds = in_seconds
        self._begun: dict[str, _Begun] = {}
        self._counted_to: float | None = None
        self._taken = self._busy = 0.0
        self._idle_since: float | None = None
        self._longest_idle = 0.0
        self._measured_works = 0
        for work in works:
            self._kind_of(work).add(work)

    def begin(self, name: str, kind: str, now: float) -> Work:
        """Note that a work begins: the next of its kind, or one more if there is none.

        Args:
            name: Name by which it is known until its end.
            kind: Kind of the work.
            now: Time in seconds, by a clock that only goes forward.
        """
        self._count(now)
        self._longest_idle, self._idle_since = max(self._longest_idle, self._idle(now)), None
        waiting = self._kinds[kind].waiting if kind in self._kinds else deque[Work]()
        work = waiting.popleft() if waiting else self._extra(kind)
        self._begun[name] = _Begun(work, now)
        return work

    def reached(self, name: str, share: float | None, now: float) -> None:
        """Note which part of a work at hand is done, 0 to 1."""
        if name in self._begun:
            self._begun[name].reached(share, now)

    def end(self, name: str, now: float, *, cached: bool = False) -> None:
        """Note that a work is done; one that was found done says nothing of the others."""
        begun = self._begun.pop(name, None)
        if begun is None:
            return
        kind = self._kinds[begun.work.kind]
        kind.done += begun.work.weight
        if not self._begun:
            self._idle_since = now
        if cached:
            self._counted_to = now  # looking for it is no time of the run
            return
        self._count(now)
        kind.measure(begun.work.weight, now - begun.at)
        self._measured_works += 1
        self._busy += now - begun.at

    def drop(self, name: str) -> None:
        """Note that a work is given up, and will begin again."""
        begun = self._begun.pop(name, None)
        if begun is not None:
            self._kinds[begun.work.kind].waiting.appendleft(begun.work)

    def left(self, now: float) -> float | None:
        """Return the seconds that the run still takes; None if nothing can be said yet."""
        general = self._general()
        return None if general is None else self._waited(self._sums(general, now)[1], now)

    def share(self, now: float) -> float:
        """Return which part of the run is done, 0 to 1, by the time that its works take."""
        done, left = self._sums(self._general() or 1.0, now)
        return done / (done + left) if done + left > 0 else 0.0

    def _sums(self, general: float, now: float) -> tuple[float, float]:
        """Return the seconds of all that is done, and of all that is not."""
        done = left = 0.0
        for name, kind in self._kinds.items():
            factor = self._factor(name, kind, general)
            done += factor * kind.done
            left += factor * sum(work.weight for work in kind.waiting)
            for begun in self._at_hand(name):
                rest = begun.rest(factor, now)
                left += rest
                done += max(factor * begun.work.weight - rest, 0.0)
        return done, left

    def _at_hand(self, kind: str) -> list[_Begun]:
        return [begun for begun in self._begun.values() if begun.work.kind == kind]

    def _kind_of(self, work: Work) -> _Kind:
        return self._kinds.setdefault(work.kind, _Kind(work.weight, work.rough))

    def _extra(self, kind: str) -> Work:
        """Return a work that nobody expected; it counts little, unless others of it did more."""
        known = self._kinds.get(kind)
        few = min((each.one for each in self._kinds.values() if each.one > 0), default=1.0)
        work = Work(kind, known.one if known else few, rough=True)
        self._kind_of(work)
        return work

    def _count(self, now: float) -> None:
        """Count the time up to now into the time of the run, from the first work on."""
        if self._counted_to is not None:
            self._taken += now - self._counted_to
        self._counted_to = now

    def _measured(self, name: str, kind: _Kind) -> tuple[float, float]:
        """Return the seconds that some weight of a kind took, works at hand included."""
        works = list(kind.recent)
        for begun in self._at_hand(name):
            whole, share = begun.seconds(), begun.share or 0.0
            if whole is not None:
                works.append((share * begun.work.weight, share * whole))
        weight, seconds = _pace(works)
        return seconds, weight

    def _general(self) -> float | None:
        """Return the seconds of a unit of weight, over all kinds whose weights can be trusted."""
        seconds = weight = doubt = 0.0
        for name, kind in self._kinds.items():
            if not kind.rough:
                more = self._measured(name, kind)
                seconds, weight = seconds + more[0], weight + more[1]
                doubt = max(doubt, _TRUST * kind.one)
        if self._in_seconds:
            return (seconds + doubt) / (weight + doubt) if weight + doubt > 0 else 1.0
        return seconds / weight if weight > 0 else None

    def _factor(self, name: str, kind: _Kind, general: float) -> float:
        """Return the seconds of a unit of weight of one kind."""
        seconds, weight = self._measured(name, kind)
        if name == REPORT and self._in_seconds:
            # It computes no steps: what makes them faster leaves it as it is, and a machine that
            # is busy makes it slower too.
            general = max(general, 1.0) ** 0.5
        doubt = (_TRUST_IN_GUESS if kind.rough else _TRUST) * kind.one
        return (seconds + doubt * general) / (weight + doubt) if weight + doubt > 0 else general

    def _waited(self, left: float, now: float) -> float:
        """Add what lies between works, or share them out among those who do them at once."""
        busy = self._busy + sum(now - each.at for each in self._begun.values())
        if busy < _ENOUGH or self._counted_to is None:
            return left
        taken = self._taken + now - self._counted_to
        if taken < busy:
            return left * taken / busy
        waiting = sum(len(kind.waiting) for kind in self._kinds.values())
        between = max(taken - busy - max(self._longest_idle, self._idle(now)), 0.0)
        return left + between / max(self._measured_works, 1) * waiting

    def _idle(self, now: float) -> float:
        """Return the seconds since the last work, while none is at hand."""
        return 0.0 if self._idle_since is None else max(now - self._idle_since, 0.0)
