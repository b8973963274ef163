"""Record of a finished descent, and how it is read back.

Layout: ``<store>/runs/<run>/`` holds ``recipe.json`` from the start, and ``run.json`` (a
``RunRecord``) and ``report.html`` from the end. The stages that made it stay where they are and are
named by reference.
"""

from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor

from engine.applications.comparisons.results import Comparisons, Damage, Rerun
from engine.applications.descent import findings
from engine.applications.descent.comparison_findings import file_notes, idle_baselines
from engine.applications.descent.iterates import Iterate, Iterates
from engine.applications.descent.source_shares import SourceShare
from engine.problems.built import SPLITS
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Document
from engine.reports.curves import Curve
from engine.reports.ranks import area_under_curve
from engine.reports.sections import Number
from engine.reports.units import measures, write_measure, write_number
from engine.runs.finished import FinishedRun, read_finished_as
from engine.runs.run import Scores
from engine.stages.commits import lineage
from engine.stages.references import Ref

_NUMBERS = 3
"""Metrics among the numbers at the head of a report; tables have all."""


class Selection(Document):
    """What a selection of examples did, where the corrupted ones are known."""

    examples: int
    """Training candidates."""

    corrupted: int
    """Candidates whose label is wrong."""

    dropped: int
    """Candidates with a count of 0 at the chosen iterate."""

    dropped_corrupted: int
    """Those of them whose label is wrong."""

    auc: float | None
    """How well the first metagradient tells corrupted from clean candidates: 0.5 is chance."""


class SetUp(Document):
    """One row of the comparison: a set-up that was trained and scored."""

    name: str
    """What it is called."""

    role: str
    """``initial``, ``descent`` or ``baseline``."""

    scores: dict[str, Scores]
    """Split to scores."""

    examples: int | None
    """Examples that it trains on, for selections."""

    corrupted: int | None
    """Those of them whose label is wrong."""


class RunRecord(Comparisons, FinishedRun):
    """Everything that ``mgd show`` and ``mgd run --json`` say about a finished descent."""

    bulky = frozenset({"train", "seed", "reverse", "replay"})

    recipe: DescentRecipe
    """The settings that made it."""

    iterates: list[Iterate]
    """z_0, ..., z_N."""

    chosen: int
    """The outer step whose iterate has the lowest loss on the validation split, or the highest if
    the loss is maximized; or the best by ``outer.choose_by``."""

    selection: Selection | None
    """For example counts and weights with known corruption."""

    digest: str
    """SHA-256 of the bits of z_N."""

    damage: Damage | None = None
    """For changed inputs: which images and classes carry it."""

    sources: list[SourceShare] = []
    """For texts of several sources: the share of each in training, before and after."""

    files: list[str] = []
    """Files beside the report, for use elsewhere."""

    growth: list[float] = []
    """Fastest sustained growth of the adjoint per step backwards, in each outer step; 1 is none."""

    @model_validator(mode="after")
    def _is_whole(self) -> "RunRecord":
        """Refuse a record that lacks its chosen iterate or the loss of an iterate."""
        if not 0 <= self.chosen < len(self.iterates):
            raise ValueError(f"chosen is {self.chosen}, of {len(self.iterates)} iterates")
        for step in self.iterates:
            lacking = [name for name in SPLITS if "loss" not in step.scores.get(name, {})]
            if lacking:
                raise ValueError(f"iterate {step.outer_step} has no loss of {lacking[0]}")
        return self

    @property
    def objective(self) -> list[float]:
        """Objective loss at the iterate that each outer step started from."""
        return [step.scores["objective"]["loss"] for step in self.iterates if step.gradient]

    @property
    def over_fitted(self) -> bool:
        """Say whether, after the chosen iterate, the objective fell while validation rose.

        An attack that over-fits is a weaker attack, which the test loss shows; so never uphill.
        """
        if self.recipe.outer.maximize:
            return False
        objective, validation = self.losses["objective"], self.losses["validation"]
        fell = objective[-1] < objective[self.chosen]
        return fell and findings.rose(validation[self.chosen], validation[-1])

    @property
    def losses(self) -> dict[str, list[float]]:
        """Split to its loss at each iterate."""
        return {
            split: [each.scores[split]["loss"] for each in self.iterates]
            for split in self.iterates[0].scores
        }

    def before_and_after(self, split: str) -> dict[str, Scores]:
        """Return a split's scores at z_0 and at the chosen iterate."""
        return {
            "before": self.iterates[0].scores[split],
            "after": self.iterates[self.chosen].scores[split],
        }

    def set_ups(self) -> list[SetUp]:
        """Return the set-ups to compare: the start, the chosen iterate and the baselines.

        A baseline that is where the descent started is there once.
        """
        first, best, kept = self.iterates[0], self.iterates[self.chosen], self.selection
        counts = [(None, None)] * 2
        if kept is not None:
            wrong = kept.corrupted or None
            left = None if wrong is None else wrong - kept.dropped_corrupted
            counts = [(kept.examples, wrong), (kept.examples - kept.dropped, left)]
        own = [("initial set-up", "initial", first), (f"outer step {self.chosen}", "descent", best)]
        rows = [
            SetUp(name=name, role=role, scores=each.scores, examples=n, corrupted=wrong)
            for (name, role, each), (n, wrong) in zip(own, counts, strict=True)
        ]
        idle = idle_baselines(self)
        baselines = [each for each in self.baselines if each.name not in idle]
        same = not self.chosen or any(each.final == first.final for each in baselines)
        return rows[same:] + [
            SetUp(role="baseline", **each.model_dump(include=set(SetUp.model_fields) - {"role"}))
            for each in baselines
        ]

    def refs_to_keep(self, store: str) -> list[Ref]:
        """Return metaparameters, metagradients, and the training of the chosen iterate."""
        results = [each.gradient for each in self.iterates if each.gradient is not None]
        results += [each.value for each in [*self.iterates, *self.baselines]]
        return results + lineage(store, self.iterates[self.chosen].final, "start")

    def headline(self) -> str:
        """Return the test loss of the chosen iterate in a sentence, or that none is better."""
        return findings.headline(self)

    def numbers(self) -> list[Number]:
        """Return loss and metrics on the test split, and how well a selection finds errors."""
        test = self.before_and_after("test")
        before, after = test["before"], test["after"]
        was = write_number(before["loss"])
        shown = [Number("Test loss", write_number(after["loss"]), f"{was} at the start")]
        for name, value in list(measures(after).items())[:_NUMBERS]:
            was = write_measure(name, before[name])
            shown.append(Number(f"Test {name}", write_measure(name, value), f"{was} at the start"))
        kept = self.selection
        if kept is not None and kept.auc is not None:
            shown.append(Number("AUC for wrong labels", f"{kept.auc:.2f}", "0.5 is chance"))
        elif kept is not None:
            shown.append(Number("Examples kept", str(kept.examples - kept.dropped)))
        else:
            losses = self.before_and_after("validation")
            was = write_number(losses["before"]["loss"])
            now = write_number(losses["after"]["loss"])
            shown.append(Number("Validation loss", now, f"{was} at the start"))
        return shown

    def findings(self) -> list[str]:
        """Say which iterate was chosen, what it changed, and how it compares."""
        return findings.findings(self)

    def warnings(self) -> list[str]:
        """Return warnings about the metagradients and the result."""
        return findings.warnings(self)

    def next_steps(self) -> list[str]:
        """Say which files hold the selection."""
        return file_notes(self)

    def table(self) -> list[dict[str, str]]:
        """Return the loss of each iterate on each split, its metrics, and which was chosen."""
        return [
            {
                "outer step": str(each.outer_step),
                **{
                    f"{split} loss": f"{scores['loss']:.4f}"
                    for split, scores in each.scores.items()
                },
                **{
                    f"validation {by}": write_measure(by, each.scores["validation"][by])
                    for by in [self.recipe.outer.choose_by]
                    if by != "loss"
                },
                **{
                    f"test {name}": write_measure(name, value)
                    for name, value in measures(each.scores["test"]).items()
                },
                "chosen": "*" if each.outer_step == self.chosen else "",
            }
            for each in self.iterates
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return the scores of each iterate on each split, and which was chosen."""
        return Iterates(self.iterates, self.chosen).rows()

    def curves(self) -> list[Curve]:
        """Return every score on every split by outer step."""
        return Iterates(self.iterates).curves()

    def arrays(self) -> dict[str, Ref]:
        """Return z, metagradient and final state of each outer step."""
        return Iterates(self.iterates).arrays()

    def outcome(self) -> dict[str, Any]:
        """Return losses and scores, and what they are compared with."""
        return {
            "objective": self.objective,
            "losses": self.losses,
            "chosen": self.chosen,
            "chosen_by": self.recipe.outer.choose_by,
            "over_fitted": self.over_fitted,
            "validation": self.before_and_after("validation"),
            "test": self.before_and_after("test"),
            **self.compared(),
            "digest": self.digest,
        }

    def compared(self) -> dict[str, Any]:
        """Return the part of ``mgd run --json`` that an application adds, if the run has one."""
        content: dict[str, Any] = {}
        if self.selection is not None and self.selection.auc is not None:
            content["auc"] = self.selection.auc
        if self.sources:
            content["sources"] = {
                each.name: {"before": each.before, "after": each.after} for each in self.sources
            }
        if self.baselines:
            content["baselines"] = {each.name: each.scores["test"] for each in self.baselines}
        if self.reruns:
            content["reruns"] = {each.name: _on_test(each) for each in self.reruns}
        own = self.iterates[self.chosen].scores["validation"]["loss"]
        for name, found in (("grid", self.grid), ("optuna", self.optuna)):
            if found is not None:
                content[name] = {
                    "trainings": found.trainings,
                    "best": found.best["validation"],
                    "test": {"loss": found.best["test"]},
                    "rank": found.rank(own),
                }
        return content


def _on_test(rerun: Rerun) -> dict[str, Scores | None]:
    """Return the numbers of a rerun on the test split; None where a training diverged."""
    pair = {"before": rerun.before, "after": rerun.after}
    return {name: None if scores is None else scores["test"] for name, scores in pair.items()}


def read_run(store: str, run: str) -> RunRecord:
    """Read a finished descent; see ``engine.runs.finished.read_finished_as``."""
    return read_finished_as(store, run, RunRecord)


def summarize_selection(
    recipe: DescentRecipe, value: Tensor, first_gradient: Tensor, corrupted: Tensor
) -> Selection | None:
    """Compare the dropped examples with the corrupted ones; None for other metaparameters."""
    if not recipe.metaparameters.about.selects_examples:
        return None
    dropped = value == 0
    both = corrupted.any() and not corrupted.all()
    # A positive metagradient says that more of this example raises the loss.
    auc = area_under_curve(corrupted, first_gradient) if both else None
    return Selection(
        examples=len(value),
        corrupted=int(corrupted.sum()),
        dropped=int(dropped.sum()),
        dropped_corrupted=int(torch.logical_and(dropped, corrupted).sum()),
        auc=auc,
    )
