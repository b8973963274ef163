"""Where a run stands: its stages, what they took, and how to go on, finished or not."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from engine.claims import Claim
from engine.config import Settings
from engine.inventory import StoredRun, StoredStage, stage_record_url, stored_runs, stored_stages
from engine.records import read_records


class Standing(StrEnum):
    """How far a run is."""

    FINISHED = "finished"
    UNFINISHED = "unfinished"


class StageLine(Settings):
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


class StageTotals(Settings):
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


class RunOverview(Settings):
    """A run and all of its stages."""

    run: str
    """Name of the run."""

    recipe: str
    """Name of the recipe."""

    standing: Standing
    """Whether it has finished."""

    active: str
    """When it last wrote something: UTC, ISO 8601."""

    stages: list[StageLine]
    """In the order in which it last asked for them."""

    totals: StageTotals
    """Sums over the stages."""


class RunLine(Settings):
    """A run in a list of runs."""

    run: str
    """Name of the run."""

    recipe: str
    """Name of the recipe."""

    standing: Standing
    """Whether it has finished."""

    active: str
    """When it last wrote something: UTC, ISO 8601."""

    stages: int
    """Stages that it uses."""


def overview(store: str, run: str) -> RunOverview:
    """Describe a run that is there; see ``engine.runs.find_run``.

    Cost:
        Lists the store and reads one small record for each stage; reads no rows.
    """
    (found,) = (each for each in stored_runs(store) if each.name == run)
    stored = stored_stages(store)
    urls = {(c.stage, c.key): stage_record_url(store, c.stage, c.key) for c in found.claims}
    records = read_records(list(urls.values()))
    lines = [
        _line(each, stored.get((each.stage, each.key)), records.get(urls[each.stage, each.key]))
        for each in found.claims
    ]
    return RunOverview(
        run=run,
        recipe=_recipe_name(found),
        standing=_standing(found),
        active=_time(found.active),
        stages=lines,
        totals=total(lines),
    )


def total(lines: list[StageLine]) -> StageTotals:
    """Sum over stages."""
    return StageTotals(
        stages=len(lines),
        committed=sum(line.committed for line in lines),
        cached=sum(line.cached for line in lines),
        attempts=sum(line.attempts for line in lines),
        bytes=sum(line.bytes for line in lines),
        seconds=sum(line.seconds for line in lines),
        gpu_seconds=sum(line.gpu_seconds for line in lines),
    )


def list_overviews(store: str) -> list[RunLine]:
    """Return the runs of a store, the one that was active last first."""
    return [
        RunLine(
            run=run.name,
            recipe=_recipe_name(run),
            standing=_standing(run),
            active=_time(run.active),
            stages=len(run.claims),
        )
        for run in stored_runs(store)
    ]


def _line(claim: Claim, stored: StoredStage | None, record: dict[str, Any] | None) -> StageLine:
    made = record or {}
    where = made.get("environment", {})
    seconds = float(made.get("seconds", 0.0))
    return StageLine(
        stage=claim.stage,
        name=claim.name,
        key=claim.key,
        committed=record is not None,
        cached=claim.cached,
        attempts=stored.attempts if stored else 0,
        bytes=stored.bytes if stored else 0,
        seconds=seconds,
        gpu_seconds=seconds if where.get("cuda") else 0.0,
        device=str(where.get("device", "")),
    )


def _standing(run: StoredRun) -> Standing:
    return Standing.FINISHED if run.finished else Standing.UNFINISHED


def _recipe_name(run: StoredRun) -> str:
    return str((run.recipe or {}).get("name", ""))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
