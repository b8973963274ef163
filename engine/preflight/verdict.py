"""Results of a preflight: one verdict for each check, with a number, a cause and a remedy."""

import math
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from html import escape
from typing import Any

from pydantic import field_validator

from engine.errors import UntrustworthyError, with_settings
from engine.recipes.execution import PreflightMode
from engine.recipes.settings import Document
from engine.shown.html import rows_html


class Verdict(StrEnum):
    """How far a metagradient may be trusted, best first."""

    PASS = "pass"
    WARN = "warn"
    REFUSE = "refuse"


_AT_LEAST = frozenset({"metasmoothness", "injection", "removals", "eps-root"})
"""Checks whose number has to reach its limit; every other one has to stay below it."""


class Check(Document):
    """One thing that was tried on a short twin of the run."""

    name: str
    """What was tried: lower-case words with hyphens."""

    verdict: Verdict
    """What follows from it."""

    value: float | None
    """The number that was measured; none if it is not finite, or if nothing could be measured."""

    limit: float | None
    """The number beyond which the verdict is not ``pass``."""

    cause: str
    """What was found, in plain words."""

    remedy: str = ""
    """The cheapest change that helps, by arguments of a notebook; empty if none is needed."""

    settings: tuple[str, ...] = ()
    """Keys of a recipe that the remedy is about."""

    def __repr__(self) -> str:
        bound = self.bound()
        figure = f" {self.value:.3g}, limit {bound}" if bound else ""
        return f"Check({self.name}: {self.verdict.value}{figure})"

    __str__ = __repr__

    def bound(self) -> str:
        """Return the limit with the side of it that passes; empty if there is no number."""
        if self.value is None or self.limit is None:
            return ""
        return f"{'≥' if self.name in _AT_LEAST else '≤'} {self.limit:.3g}"

    def meaning(self) -> str:
        """Return the cause and the remedy, in the words of a recipe."""
        return with_settings(f"{self.cause} {self.remedy}".strip(), self.settings)

    def in_recipe(self) -> str:
        """Return the check's name and its meaning."""
        return f"{self.name}: {self.meaning()}"

    @field_validator("value", mode="before")
    @classmethod
    def _no_number_where_it_is_not_finite(cls, value: float | int | None) -> float | None:
        return None if value is None or not math.isfinite(value) else float(value)


class CheckReport(Document):
    """All checks of a routine, and the worst of their verdicts."""

    verdict: Verdict
    """``refuse`` if one check refuses, else ``warn`` if one warns, else ``pass``."""

    checks: list[Check]
    """In the order in which they were made."""

    @classmethod
    def of(cls, checks: Sequence[Check]) -> "CheckReport":
        """Gather checks."""
        order = list(Verdict)
        worst = max((check.verdict for check in checks), key=order.index, default=Verdict.PASS)
        return cls(verdict=worst, checks=list(checks))

    def __repr__(self) -> str:
        wrong = [*self.with_verdict(Verdict.REFUSE), *self.with_verdict(Verdict.WARN)]
        shown = ", ".join(f"{check.name} {check.verdict.value}s" for check in wrong)
        return f"CheckReport({self.verdict.value}: {shown or 'all'} of {len(self.checks)} checks)"

    def __str__(self) -> str:
        return "\n".join([repr(self), *self.sentences()])

    def _repr_html_(self) -> str:
        """Return the checks as a table, for a notebook."""
        rows = [
            {
                "check": each.name,
                "verdict": each.verdict.value,
                "found": "" if each.value is None else f"{each.value:.3g}",
                "limit": each.bound(),
                "meaning": each.meaning(),
            }
            for each in self.checks
        ]
        return f"<div><b>{escape(repr(self))}</b>{rows_html(rows, most=len(rows))}</div>"

    def with_checks(self, more: Sequence[Check]) -> "CheckReport":
        """Return the report with more checks at its end."""
        return CheckReport.of([*self.checks, *more])

    def for_recipe(self, content: Mapping[str, Any], unread: Collection[str]) -> "CheckReport":
        """Return the report with remedies by those keys alone that a recipe has and that are read.

        Args:
            content: The recipe, with the arguments of its problem.
            unread: Keys, or groups of them, that nothing reads.
        """

        def helps(key: str) -> bool:
            found: Any = content
            for part in key.split("."):
                if not isinstance(found, Mapping) or part not in found:
                    return False
                found = found[part]
            return not {key, key.partition(".")[0]} & {*unread}

        def with_fitting_settings(check: Check) -> Check:
            return check.model_copy(update={"settings": tuple(filter(helps, check.settings))})

        return CheckReport.of([with_fitting_settings(check) for check in self.checks])

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def gate(self, mode: PreflightMode) -> list[str]:
        """Return the checks that did not pass, in sentences; stop a refused run unless told not to.

        Raises:
            UntrustworthyError: If the verdict is ``refuse`` and the mode ``enforce``.
        """
        if self.verdict is Verdict.REFUSE and mode is PreflightMode.ENFORCE:
            found = [check.in_recipe() for check in self.with_verdict(Verdict.REFUSE)]
            raise UntrustworthyError(
                "The preflight refuses this run, because its metagradient would not mean what it "
                "should.\n" + "\n".join(found) + "\nTo run it all the same, set preflight=advise."
            )
        return self.sentences()

    def with_verdict(self, verdict: Verdict) -> list[Check]:
        """Return the checks with one verdict."""
        return [check for check in self.checks if check.verdict is verdict]

    def sentences(self) -> list[str]:
        """Say what did not pass, one sentence or two for each, worst first."""
        return [
            check.in_recipe()
            for verdict in (Verdict.REFUSE, Verdict.WARN)
            for check in self.with_verdict(verdict)
        ]

    def warnings(self) -> list[str]:
        """Return the sentences as a run says them, on its way and at its end in the same words."""
        return [f"Preflight, {sentence}" for sentence in self.sentences()]


def heed_later(found: Sequence[str], mode: PreflightMode) -> Sequence[str]:
    """Return the defects found in later steps; stop the run, unless told not to.

    Args:
        found: What was found, in words; see ``engine.replay.refusals.later_steps``.
        mode: What follows from it, as from what the preflight finds.

    Raises:
        UntrustworthyError: If there is any, and the mode is ``enforce``.
    """
    if found and mode is PreflightMode.ENFORCE:
        raise UntrustworthyError(f"{found[0]} To run it all the same, set preflight=advise.")
    return found
