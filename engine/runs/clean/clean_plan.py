"""Rules of a clean, its plan, and its report."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.recipes.settings import Document, Settings
from engine.reports.units import DAY
from engine.runs.inventory import StoredRun, StoredStage
from engine.storage.listing import File


class CleanRules(Settings):
    """Which runs are freed, and below which age a file is left alone."""

    older_than_seconds: Annotated[float | None, Field(ge=0)] = None
    """Free runs that have written nothing for so long; empty frees none by age."""

    keep: Annotated[int | None, Field(ge=0)] = None
    """Free all but so many runs, the ones that were active last; empty frees none by count."""

    runs: list[str] = []
    """Free these runs, whatever their age; whole names."""

    intermediate: bool = False
    """Free what finished runs keep only to be repeated or continued."""

    grace_seconds: Annotated[float, Field(ge=0)] = DAY
    """An unfinished run that wrote something within this time is at work, and what nobody refers
    to may be somebody's in a moment."""


class Freed(Document):
    """One run, stage or file that is freed."""

    what: Literal["run", "stage", "attempt", "result", "source"]
    """Kind of thing."""

    name: str
    """Name of the run, kind and key of the stage, or digest of the source."""

    bytes: int
    """Bytes that it takes."""

    reason: str
    """Why nobody needs it."""

    runs: list[str] = []
    """Runs that it belongs to; none if no run refers to it."""


class CleanReport(Document):
    """Everything that a clean would free, or has freed."""

    store: str
    """URL of the store."""

    deleted: bool
    """Whether it is gone; a report alone deletes nothing."""

    freed: list[Freed]
    """What goes."""

    kept_runs: list[str]
    """Runs that stay, the one that was active last first."""

    bytes: int
    """Sum over ``freed``."""

    kept_bytes: int
    """Bytes of all that stays."""

    left: list[str] = []
    """Files below stages, results and runs that the engine did not make, and that stay."""


@dataclass(frozen=True)
class Victim:
    """A stage that is freed, and the claims to it (run to token) when that was decided."""

    stage: StoredStage
    reason: str
    claims: dict[str, str]

    @property
    def name(self) -> str:
        """Kind and key."""
        return f"{self.stage.stage}/{self.stage.key}"


@dataclass(frozen=True)
class CleanPlan:
    """What is freed, and how to delete it.

    Attributes:
        report: Report for people.
        victims: Stages.
        results: Prefect's records of stages that are not there, by name.
        runs: Runs whose folders go, after their stages.
        sources: Source of problems that goes, by the digest that it is named by, last of all.
    """

    report: CleanReport
    victims: list[Victim]
    results: dict[str, File]
    runs: list[StoredRun]
    sources: dict[str, list[File]]
