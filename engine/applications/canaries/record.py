"""Record of a finished run of canaries."""

from typing import Any

from engine.applications.canaries.canaries import check_batched, first_canaries
from engine.recipes.canaries import CanariesRecipe
from engine.recipes.settings import Document
from engine.reports.curves import Curve
from engine.reports.sections import Number
from engine.runs.finished import FinishedRun
from engine.runs.run import begin_run
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import prepare as prepare_descent

OWN, BEFORE, WRONG = "optimized", "before", "mislabelled"
"""Kinds of canaries."""


class GapRecord(Document):
    """Result of an audit: losses IN and OUT, and their gap."""

    gap: float
    """Mean loss of canaries that were left out, minus that of those trained on, in nats."""

    low: float
    """Lower end of the 95 % bootstrap interval over the trainings."""

    high: float
    """Upper end."""

    auc: float
    """How well a low loss tells who was trained on: 0.5 is chance."""

    loss_in: float
    """Mean loss of those trained on."""

    loss_out: float
    """Mean loss of those left out."""


class CanariesRecord(FinishedRun):
    """Settings, results and stages of a finished run of canaries."""

    recipe: CanariesRecipe  # pyright: ignore[reportIncompatibleVariableOverride] (it is frozen)
    """The settings that made it."""

    moved: list[Ref]
    """The stage of each outer step."""

    audited: dict[str, Ref]
    """Kind of canaries to its audit."""

    audits: dict[str, GapRecord]
    """Kind of canaries to what its audit found, the optimized ones first."""

    steps: list[float]
    """Gap in the training of each outer step, before its move."""

    def refs_to_keep(self, store: str) -> list[Ref]:  # noqa: ARG002 (asked of any kind)
        """Return every stage: pictures and losses are all that canaries keep."""
        return [*self.moved, *self.audited.values()]

    def headline(self) -> str:
        """Return the gap of the optimized canaries beside that of the same images before."""
        own, before = self.audits[OWN], self.audits[BEFORE]
        times = f" ({own.gap / before.gap:.1f} times the gap)" if own.gap > before.gap > 0 else ""
        return (
            f"The loss of the optimized canaries is {_lower(own.gap)} where they were trained "
            f"on{times}; that of the same images before, {_lower(before.gap)}."
        )

    def numbers(self) -> list[Number]:
        """Return gap and AUC, and the gap of the same images before."""
        own, before = self.audits[OWN], self.audits[BEFORE]
        return [
            Number(
                "Gap of the canaries",
                f"{own.gap:.3f} nats",
                f"{own.low:.3f} to {own.high:.3f} nats (95 % interval)",
            ),
            Number("Gap of the same images before", f"{before.gap:.3f} nats"),
            Number("AUC of a threshold on the loss", f"{own.auc:.2f}", "0.5 is chance"),
        ]

    def findings(self) -> list[str]:
        """Say what was optimized, and what the audits found."""
        own, before, wrong = (self.audits[name] for name in (OWN, BEFORE, WRONG))
        settings = self.recipe.canaries
        return [
            f"{settings.num_canaries} canaries were optimized in {self.recipe.outer.num_steps} "
            f"outer steps, and audited in {settings.num_audits} trainings with other halves, "
            "starts and orders.",
            self.headline(),
            f"With wrong labels instead, the gap is {wrong.gap:.3f} nats.",
            f"A threshold on the loss tells who was trained on with an AUC of {own.auc:.2f}; "
            f"before {before.auc:.2f}, with wrong labels {wrong.auc:.2f}.",
        ]

    def table(self) -> list[dict[str, Any]]:
        """Return one row for each kind of canaries."""
        return [
            {
                "canaries": name,
                "gap (nats)": f"{found.gap:.3f} [{found.low:.3f}, {found.high:.3f}]",
                "AUC": f"{found.auc:.3f}",
                "loss IN (nats)": f"{found.loss_in:.3f}",
                "loss OUT (nats)": f"{found.loss_out:.3f}",
            }
            for name, found in self.audits.items()
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of numbers for each kind of canaries; gaps and losses are in nats."""
        return [
            {
                "canaries": name,
                "gap_nats": found.gap,
                "gap_low_nats": found.low,
                "gap_high_nats": found.high,
                "auc": found.auc,
                "loss_in_nats": found.loss_in,
                "loss_out_nats": found.loss_out,
            }
            for name, found in self.audits.items()
        ]

    def curves(self) -> list[Curve]:
        """Return the gap in the training of each outer step."""
        return [
            Curve("gap (nats)", "outer step", [(float(n), gap) for n, gap in enumerate(self.steps)])
        ]

    def arrays(self) -> dict[str, Ref]:
        """Return references to the results of each outer step and of each audit."""
        moved = {f"moved[{number}]": ref for number, ref in enumerate(self.moved)}
        return moved | {f"audit[{name}]": ref for name, ref in self.audited.items()}

    def outcome(self) -> dict[str, Any]:
        """Return the audit of the canaries, and those of the others."""
        audits = {name: each.model_dump() for name, each in self.audits.items()}
        return {
            "steps": self.steps,
            "gap": audits[OWN]["gap"],
            "audit": audits.pop(OWN),
            "baselines": audits,
        }


def _lower(gap: float) -> str:
    """Return how much lower the loss IN is, in words; in a small audit it may be higher."""
    return f"{abs(gap):.3f} nats {'higher' if gap < 0 else 'lower'}"


def prepare(recipe: CanariesRecipe, store: str) -> None:
    """Refuse a recipe that cannot be run, and keep the settings of any other.

    Raises:
        ConfigurationError: If a setting is refused; names its value, the reason and the remedy.
    """
    run = Run(recipe.descent, store)
    prepare_descent(run)
    canaries = first_canaries(run.problem, recipe.canaries.num_canaries)
    check_batched(recipe.canaries, run.problem, canaries)
    begin_run(recipe, store)
