"""Budget of a run: what it has spent, and when it has to stop.

Time is that of the stages which the run has computed, over all of its starts: a crash grants
nothing. A stop for its budget does: anyone who starts the run again after that grants the
same again.
Bytes are those of the stages that this start has asked for, whichever start has computed them;
what is left of an older engine's stages is none of them.

Layout: ``<store>/runs/<run>/budget.json`` holds the seconds that had been granted before.
"""

from typing import Any, TypeGuard

from engine.errors import BudgetSpentError
from engine.recipes.descent import DescentRecipe
from engine.recipes.execution import BudgetSettings
from engine.recipes.files import validated
from engine.recipes.settings import Document
from engine.reports.units import number_in
from engine.stages.claims import read_claims
from engine.stages.references import Ref
from engine.storage.places import BUDGET, run_file, stage_record_url
from engine.storage.records import read_record, read_records, write_record


class Spending(Document):
    """What a run has spent."""

    stages: int = 0
    """Finished stages that it computed itself."""

    seconds: float = 0.0
    """Their computing time."""

    bytes: int = 0
    """Their bytes in the store."""


class Budget:
    """Counts what a run spends, stage by stage.

    Args:
        settings: What it may spend; without a limit nothing is read or written.
        store: fsspec URL of the store.
        run: Name of the run.
    """

    def __init__(self, settings: BudgetSettings, store: str, run: str) -> None:
        self._settings, self._store, self._run = settings, store, run
        self._limited = settings.max_seconds is not None or settings.max_bytes is not None
        self._seen: set[str] = set()
        self._before: set[str] = set()  # attempts whose time is counted already
        self.spent = Spending()
        self._granted = 0.0
        if self._limited:
            self._granted = _granted(store, run)
            claimed = {stage_record_url(store, c.stage, c.key) for c in read_claims(store, run)}
            for record in read_records(sorted(claimed)).values():
                if self._is_own(record):
                    self.spent = self._added(record, with_bytes=False)
                    self._before.add(str(record.get("attempt")))

    def check(self, done: int, total: int) -> None:
        """Stop before anything is begun if the budget is spent already; see ``spend``."""
        reasons = self._exceeded()
        if not reasons:
            return
        # What was granted is used up: the next start gets the same again.
        write_record(_budget_url(self._store, self._run), {"granted_seconds": self.spent.seconds})
        raise BudgetSpentError(
            f"Run {self._run} stops, its budget is spent: {' and '.join(reasons)}. "
            f"{done} of {total} stages are finished and stay. To go on: "
            f"mgd resume {self._run} --store {self._store}{self._options()}"
        )

    def spend(self, ref: Ref, done: int, total: int) -> None:
        """Count a stage that was committed.

        Args:
            ref: The stage.
            done: Stages of the run that are finished.
            total: Stages that the run has.

        Raises:
            BudgetSpentError: If that was the last that the run may do; the stage stays.
        """
        if not self._limited:
            return
        url = stage_record_url(self._store, ref.stage, ref.key)
        if url not in self._seen:
            self._count(url, read_record(url))
        if done < total:
            self.check(done, total)

    def _count(self, url: str, record: dict[str, Any] | None) -> None:
        self._seen.add(url)
        if self._is_own(record):
            self.spent = self._added(record, with_bytes=True)

    def _is_own(self, record: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
        return record is not None and record.get("run") == self._run

    def _added(self, record: dict[str, Any], *, with_bytes: bool) -> Spending:
        """Return the spending with a stage added; its time counts once for all starts."""
        counted = str(record.get("attempt")) in self._before
        return Spending(
            stages=self.spent.stages + (not counted),
            seconds=self.spent.seconds + (0.0 if counted else number_in(record, "seconds")),
            bytes=self.spent.bytes + (int(number_in(record, "bytes")) if with_bytes else 0),
        )

    def _exceeded(self) -> list[str]:
        limits, seconds = self._settings, self.spent.seconds - self._granted
        reasons: list[str] = []
        if limits.max_seconds is not None and seconds >= limits.max_seconds:
            reasons.append(
                f"budget.max_seconds is {limits.max_seconds:g}, and its stages took {seconds:.1f} s"
            )
        if limits.max_bytes is not None and self.spent.bytes >= limits.max_bytes:
            reasons.append(
                f"budget.max_bytes is {limits.max_bytes}, and its stages take {self.spent.bytes}"
            )
        return reasons

    def _options(self) -> str:
        if self._settings.max_bytes is None or self.spent.bytes < self._settings.max_bytes:
            return f" (for {self._settings.max_seconds:g} s more, or with --max-seconds)"
        return f" --max-bytes {2 * self.spent.bytes}"


def with_budget(
    recipe: DescentRecipe, *, max_seconds: float | None = None, max_bytes: int | None = None
) -> DescentRecipe:
    """Return a recipe with other limits; one that is None stays as it was."""
    given = {"max_seconds": max_seconds, "max_bytes": max_bytes}
    changed = {name: value for name, value in given.items() if value is not None}
    if not changed:
        return recipe
    budget = validated(BudgetSettings, **recipe.budget.model_dump() | changed)
    return recipe.model_copy(update={"budget": budget})


def _granted(store: str, run: str) -> float:
    url = _budget_url(store, run)
    return number_in(read_records([url]).get(url) or {}, "granted_seconds")


def _budget_url(store: str, run: str) -> str:
    return run_file(store, run, BUDGET)
