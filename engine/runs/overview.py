"""Overview of a run, finished or not: its stages, their cost, and how to continue."""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from engine.recipes.files import stored_beside_each_other, stored_beside_shipped
from engine.recipes.settings import Document
from engine.recipes.titles import said_changes
from engine.reports.units import number_in
from engine.runs.endings import Ending, renamed
from engine.runs.inventory import (
    StoredRun,
    StoredStage,
    stages_of,
    stored_run,
    stored_runs,
    wholes_of,
)
from engine.runs.run import list_runs
from engine.runs.starts import Start, last_start, seconds_until_last
from engine.stages.claims import Claim
from engine.storage.location import store_errors
from engine.storage.places import stage_record_url
from engine.storage.records import UNFORESEEN, read_records


class Standing(StrEnum):
    """How far a run is."""

    FINISHED = "finished"
    UNFINISHED = "unfinished"


class StageLine(Document):
    """One stage of a run."""

    stage: str
    """Kind of stage."""

    name: str
    """What the run calls it: outer step, and steps of the segment."""

    key: str
    """Digest of everything that shaped it."""

    committed: bool
    """Whether its result is there."""

    cached: bool
    """Whether the run found it committed when it last asked for it."""

    attempts: int
    """Attempts that left something: 1 unless one was killed or failed."""

    bytes: int
    """Bytes in the store."""

    seconds: float
    """Computing time of the attempt that was committed."""

    gpu_seconds: float
    """The same if it was computed on a GPU, else 0."""

    device: str
    """Name of the device that computed it; empty while it is not committed."""

    own: bool
    """Whether this run computed it, and no other."""

    written: int
    """Bytes of its result, by its record."""


class StageTotals(Document):
    """Sums over stages."""

    stages: int
    """Stages that the run asked for."""

    committed: int
    """Those whose result is there."""

    cached: int
    """Those that the run found committed when it last asked."""

    attempts: int
    """Attempts that left something."""

    bytes: int
    """Bytes in the store."""

    seconds: float
    """Computing time."""

    gpu_seconds: float
    """Computing time on GPUs."""


class Spent(Document):
    """Cost of a run, over all of its starts."""

    starts: int
    """Times that it was started and computed something."""

    started: str
    """When it was first started: UTC, ISO 8601; empty if that is not known."""

    seconds: float
    """Wall clock; of a start that was killed, until the last stage that it committed."""

    computing_seconds: float
    """Computing time of the stages that it computed itself."""


class Part(Document):
    """A run that is a part of another one."""

    run: str
    """Name of the run."""

    part: str
    """What people call it there."""

    standing: Standing
    """Whether it has finished."""

    verdict: str
    """What came of it, or why it stopped, in one sentence; may be empty."""


class RunView(Document):
    """What a view of a run says in any case."""

    run: str
    """Name of the run."""

    recipe: str
    """Name of the recipe."""

    standing: Standing
    """Whether it has finished."""

    active: str
    """When it last wrote something: UTC, ISO 8601."""

    changes: str = ""
    """What was changed of the recipe as it ships, in a few words."""

    stopped: str = ""
    """How its last start ended, and why, if that was before the run did; empty if that is not
    known, and once the run has finished."""

    goes_on: str = ""
    """Where its last start is at work, or may be; empty if it is over, and once the run has
    finished."""

    is_damaged: bool = False
    """Whether there is a result that is not the one that was written; nothing of it is said."""

    renamed: str = ""
    """The run whose result this is, if its folder was renamed or copied; else empty."""


class RunOverview(RunView):
    """A run and all of its stages."""

    stages: list[StageLine]
    """In the order in which it last asked for them."""

    totals: StageTotals
    """Sums over the stages."""

    spent: Spent
    """What it took, over all of its starts."""

    parts: list[Part] = []
    """The runs that are parts of it, of those that have begun."""


class RunLine(RunView):
    """A run in a list of runs."""

    stages: int
    """Stages that it uses."""

    verdict: str = ""
    """What came of it, in one sentence; empty while it has not finished."""

    seconds: float | None = None
    """Wall clock over all starts; none while it has not finished."""

    part_of: list[str] = []
    """The runs that it is a part of, which a list for people shows in its place."""

    parts: int = 0
    """Runs that are parts of it, of those that have begun."""


def overview(store: str, run: str) -> RunOverview:
    """Describe an existing run; see ``engine.runs.run.find_run``."""
    return describe(store, run)[0]


def describe(store: str, run: str) -> tuple[RunOverview, dict[str, Any] | None]:
    """Describe an existing run, and return its record if it has finished.

    Cost:
        Lists the run and its stages, and reads one small record for each; looks at no other run
        but those that are parts of it, and reads no rows.
    """
    with store_errors(store):
        found = stored_run(store, run)
        names = list(dict.fromkeys((each.stage, each.key) for each in found.claims))
        stored = dict(zip(names, stages_of(store, names), strict=True))
        urls = {name: stage_record_url(store, *name) for name in names}
        records = read_records(list(urls.values()))
    made = {name: records.get(url) for name, url in urls.items()}
    lines = [
        _line(each, stored[each.stage, each.key], made[each.stage, each.key], run)
        for each in found.claims
    ]
    view = RunOverview(
        run=run,
        recipe=_recipe_name(found),
        standing=_standing(found),
        active=_time(found.active),
        stages=lines,
        totals=total(lines),
        spent=_spent(found, [each for each in made.values() if each is not None]),
        changes=_changes([found.recipe or {}])[0],
        stopped=_of_last_start(found, Start.sentence),
        goes_on=_of_last_start(found, Start.goes_on),
        is_damaged=found.is_damaged,
        renamed=renamed(run, found.record),
        parts=_described_parts(store, found.parts),
    )
    return view, found.record if found.finished else None


def _spent(run: StoredRun, made: list[dict[str, Any]]) -> Spent:
    """Add the starts that the run's record does not count to those that it does."""
    record, ended = run.record or {}, run.ending or Ending(starts=0)
    own = [each for each in made if each.get("run") == run.name]
    starts = [each.started for each in run.starts]
    lasted = [seconds for seconds in seconds_until_last(starts, own).values() if seconds > 0]
    computing = ended.computing_seconds
    if run.ending is None:
        computing = _summed(number_in(each, "seconds") for each in own)
    first = record.get("started") or min((each.isoformat() for each in starts), default="")
    return Spent(
        starts=ended.starts + len(lasted),
        started=str(first),
        seconds=_summed([number_in(record, "seconds") if run.ending else 0.0, *lasted]),
        computing_seconds=computing,
    )


def _summed(values: Iterable[float]) -> float:
    """Add seconds of a store; damaged ones may be the largest that there are, and stay numbers."""
    largest = sys.float_info.max
    return min(max(float(sum(values)), -largest), largest)


def total(lines: list[StageLine]) -> StageTotals:
    """Sum over stages."""
    return StageTotals(
        stages=len(lines),
        committed=sum(line.committed for line in lines),
        cached=sum(line.cached for line in lines),
        attempts=sum(line.attempts for line in lines),
        bytes=sum(line.bytes for line in lines),
        seconds=_summed(line.seconds for line in lines),
        gpu_seconds=_summed(line.gpu_seconds for line in lines),
    )


def list_overviews(store: str) -> list[RunLine]:
    """Return the runs of a store, the most recently active first."""
    with store_errors(store):
        runs = stored_runs(store)
    changes = _changes([run.recipe or {} for run in runs])
    there, wholes = {run.name for run in runs}, wholes_of(runs)
    return [
        RunLine(
            run=run.name,
            recipe=_recipe_name(run),
            standing=_standing(run),
            active=_time(run.active),
            stages=len(run.claims),
            changes=changed,
            verdict=_verdict(run.ending),
            seconds=number_in(run.record or {}, "seconds") if run.finished else None,
            stopped=_of_last_start(run, Start.sentence),
            goes_on=_of_last_start(run, Start.goes_on),
            is_damaged=run.is_damaged,
            renamed=renamed(run.name, run.record),
            part_of=wholes.get(run.name, []),
            parts=len(there.intersection(run.parts)),
        )
        for run, changed in zip(runs, changes, strict=True)
    ]


def _changes(recipes: list[dict[str, Any]]) -> list[str]:
    """Say what tells each run from others of its recipe; whatever a store holds, a list is one.

    For a shipped recipe, what was changed; for a user's own recipes, how they differ.
    """
    said = [""] * len(recipes)
    own: dict[tuple[str, str], list[int]] = {}
    for place, recipe in enumerate(recipes):
        with suppress(ValueError, *UNFORESEEN):
            changes = stored_beside_shipped(recipe)
            if changes is None:
                own.setdefault((str(recipe.get("name")), str(recipe.get("kind"))), []).append(place)
            else:
                said[place] = said_changes({key: here for key, (here, _) in changes.items()})
    for places in own.values():
        with suppress(ValueError, *UNFORESEEN):
            apart = stored_beside_each_other([recipes[place] for place in places])
            for place, changes in zip(places, apart, strict=True):
                said[place] = said_changes(changes)
    return said


def _described_parts(store: str, parts: Mapping[str, str]) -> list[Part]:
    """Return the parts of a run that have begun, in the run's order."""
    with store_errors(store):
        there = set(list_runs(store)).intersection(parts) if parts else set()
        found = [stored_run(store, name) for name in parts if name in there]
    return [
        Part(
            run=each.name,
            part=parts[each.name],
            standing=_standing(each),
            verdict=_verdict(each.ending)
            or _of_last_start(each, Start.sentence)
            or ("" if each.recipe else "it is trained for its loss, which the whole reads"),
        )
        for each in found
        if each.recipe or each.claims  # else the whole has taken over what it did
    ]


def _of_last_start(run: StoredRun, say: Callable[[Start], str]) -> str:
    """Say something of the last start of a run that has not finished."""
    last = None if run.finished else last_start(run.starts)
    return "" if last is None else say(last)


def _verdict(ending: Ending | None) -> str:
    return "" if ending is None else ending.verdict or next(iter(ending.summary), "")


def _line(claim: Claim, stored: StoredStage, record: dict[str, Any] | None, run: str) -> StageLine:
    made = record or {}
    where = made.get("environment")
    where = where if isinstance(where, dict) else {}
    seconds = number_in(made, "seconds")
    return StageLine(
        stage=claim.stage,
        name=claim.name,
        key=claim.key,
        committed=record is not None,
        cached=claim.cached,
        attempts=stored.attempts,
        bytes=stored.bytes,
        seconds=seconds,
        gpu_seconds=seconds if where.get("cuda") else 0.0,
        device=str(where.get("device", "")),
        own=made.get("run") == run,
        written=int(number_in(made, "bytes")),
    )


def _standing(run: StoredRun) -> Standing:
    return Standing.FINISHED if run.finished else Standing.UNFINISHED


def _recipe_name(run: StoredRun) -> str:
    return str((run.recipe or {}).get("name", ""))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
