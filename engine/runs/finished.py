"""A finished run as an object: what the record of every kind has, and what each kind says itself.

A kind of run derives its record from ``FinishedRun``. What ends, shows and tells of runs asks the
methods of this class and never which kind it has before it; what lists and cleans a store reads no
more than the ending that ``engine.runs.finishing.finish`` writes by them.
"""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.numerics.environment import machine
from engine.preflight.verdict import CheckReport
from engine.recipes.descent import DescentRecipe
from engine.recipes.kinds import kinds
from engine.recipes.names import run_name
from engine.reports.curves import Curve, numbers_in
from engine.reports.page import REPORT
from engine.reports.sections import Number
from engine.runs.endings import Outline, intact, told_damaged
from engine.runs.run import Stages
from engine.shown.html import pairs_html, rows_html
from engine.stages.keys import engine_version, run_environment
from engine.stages.references import Ref
from engine.storage.location import join
from engine.storage.places import RUN, run_folder
from engine.storage.records import read_record, understood


class FinishedRun(Outline):
    """Base of the records of finished runs.

    A kind overrides ``recipe`` by its own class, and at least the abstract methods.
    """

    bulky: ClassVar[frozenset[str]] = frozenset()
    """Kinds of stages whose states only repeat or continue the run; all others are kept."""

    recipe: DescentRecipe
    """The settings that made it."""

    stages: Stages = Stages()
    """How many stages, cached and retried."""

    checks: CheckReport | None = None
    """What the preflight found; none if the kind has none."""

    uncompared: list[int] = []
    """Steps late in a training whose second derivative could not be compared with a finite
    difference; see ``engine.replay.refusals.later_steps``."""

    unread: list[str] = []
    """Settings that nothing read, since the problem has its own; a group stands for all in it."""

    environment: dict[str, Any] = {}
    """What the bits depend on besides the recipe."""

    @abstractmethod
    def refs_to_keep(self, store: str) -> Sequence[Ref]:
        """Return the large stages that must be kept because the result needs them."""

    @abstractmethod
    def headline(self) -> str:
        """Return the result in one sentence."""

    @abstractmethod
    def numbers(self) -> Sequence[Number]:
        """Return the numbers that stand at the top of the report, at most three."""

    @abstractmethod
    def findings(self) -> list[str]:
        """Return the result in sentences; the headline may be one of them."""

    def warnings(self) -> list[str]:
        """Return reasons to doubt the result, in sentences; by default those of the preflight."""
        return [] if self.checks is None else self.checks.warnings()

    def next_steps(self) -> list[str]:
        """Return next steps for the user, in sentences."""
        return []

    def table(self) -> list[dict[str, Any]]:
        """Return the result as rows of the same columns; may be empty."""
        return []

    def rows(self) -> list[dict[str, Any]]:
        """Return the result as rows for a program: numbers where ``table`` has words."""
        return self.table()

    def quantities(self) -> dict[str, float]:
        """Return the numbers of the result by name, to be seen beside those of another run."""
        return numbers_in(self.outcome())

    def curves(self) -> list[Curve]:
        """Return curves that can be compared with those of other runs; may be empty."""
        return []

    def arrays(self) -> dict[str, Ref]:
        """Return the stages that hold tensors of the result, by what people call them."""
        return {}

    def parts(self) -> Sequence[str]:
        """Return the runs that were parts of it, whose work counts as its own."""
        return ()

    @abstractmethod
    def outcome(self) -> dict[str, Any]:
        """Return the fields of ``mgd run --json`` that only this kind has."""

    def sentences(self) -> list[str]:
        """Return findings, warnings and next steps, in sentences."""
        return [*self.findings(), *self.warnings(), *self.next_steps()]

    def content(self, store: str) -> dict[str, Any]:
        """Return the JSON object of ``mgd run --json``."""
        return {
            "run": self.run,
            "recipe": self.recipe.name,
            "store": store,
            "seconds": round(self.seconds, 3),
            **self.outcome(),
            "stages": self.stages.model_dump(),
            **({} if self.checks is None else {"preflight": self.checks.verdict}),
            "report": self.url(store, REPORT),
        }

    def url(self, store: str, file: str) -> str:
        """Return the URL of a file of the run."""
        return join(run_folder(store, self.run), file)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.run}: {self.headline()})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return headline, numbers and the result as a table, for a notebook."""
        notes = [self.headline(), *self.warnings()]
        return pairs_html(self.run, self.in_pairs(), notes) + rows_html(self.table())

    def in_pairs(self) -> dict[str, str]:
        """Return ``numbers`` as pairs of a name and a value."""
        return {
            each.label: f"{each.value} ({each.note})" if each.note else each.value
            for each in self.numbers()
        }

    @property
    def verifiable(self) -> bool:
        """Whether ``mgd verify`` can make parts of it again."""
        return kinds()[self.recipe.kind].verify is not None

    @property
    def nothing_computed(self) -> bool:
        """Whether the start that returned it found every stage committed."""
        return 0 < self.stages.total == self.stages.cached


Record = TypeVar("Record", bound=FinishedRun)
"""Record of a kind of run."""


def how_made(recipe: DescentRecipe, started: str) -> dict[str, Any]:
    """Return the fields of a record that say which run it is, and how this start made it.

    Args:
        recipe: Recipe of any kind.
        started: UTC time of the start, ISO 8601.
    """
    return {
        "run": run_name(recipe.descent),
        "recipe": recipe,
        "started": started,
        "seconds": (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(),
        "environment": {
            "engine": engine_version(),
            **run_environment(recipe.descent),
            **machine(),
        },
    }


def read_finished_as(store: str, run: str, model: type[Record]) -> Record:
    """Read a finished run whose kind is known.

    Args:
        store: fsspec URL of the store.
        run: Full name of the run.
        model: Class of its record.

    Raises:
        ConfigurationError: If it has not finished.
        CheckpointCorruptError: If its record is damaged, or that of another version or run.
    """
    url = join(run_folder(store, run), RUN)
    try:
        content = intact(read_record(url))
    except CheckpointMissingError:
        raise ConfigurationError(
            f"Run {run} in {store} has not finished, so there is no result yet. "
            f"Continue it with `mgd resume {run}`."
        ) from None
    if content is None:
        raise CheckpointCorruptError(told_damaged(run, store))
    record = understood(url, content, model)
    if record.run != run:
        raise CheckpointCorruptError(
            f"The record at {url} is that of run {record.run[:80]}. Delete it, and "
            f"continue the run with `mgd resume {run}`, which writes it again."
        )
    return record
