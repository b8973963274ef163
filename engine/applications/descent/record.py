"""What a run leaves for people: its record, its history and where they are.

Layout: ``<store>/runs/<run>/`` holds ``recipe.json`` from the start, and ``run.json`` (a
``RunRecord``) and ``report.html`` from the end. The stages that made it stay where they are and are
named by reference.
"""

from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor

from engine.applications.comparisons.results import Comparisons, Damage, Rerun
from engine.applications.descent.source_shares import SourceShare
from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.preflight.verdict import CheckReport
from engine.problems.problem import SPLITS
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import MetaparameterName
from engine.recipes.settings import Settings
from engine.replay.outer_step import choose_iterate
from engine.runs.endings import Finished
from engine.runs.run import Scores, Stages
from engine.stages.places import run_folder
from engine.stages.references import Ref
from engine.storage.location import join
from engine.storage.records import read_model

NOTICEABLE = 0.01
"""Relative change of a loss below which nothing is made of it."""


class Iterate(Settings):
    """One point of the descent: z_n, and the model trained there."""

    outer_step: int
    """n; 0 is the set-up that the run started from."""

    value: Ref
    """z_n."""

    final: Ref
    """s_T."""

    gradient: Ref | None
    """Metagradient at z_n; none at the last iterate, from which no step is taken."""

    scores: dict[str, Scores]
    """Split (objective, validation, test) to scores."""


class Selection(Settings):
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


class SetUp(Settings):
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


class RunRecord(Comparisons, Finished):
    """Everything that ``mgd show`` and ``mgd run --json`` say about a finished run."""

    recipe: DescentRecipe
    """The settings that made it."""

    iterates: list[Iterate]
    """z_0, ..., z_N."""

    chosen: int
    """The outer step whose iterate has the lowest loss on the validation split, or the highest if
    the loss is maximized."""

    selection: Selection | None
    """For example counts and weights with known corruption."""

    stages: Stages
    """How many stages, cached and retried."""

    digest: str
    """SHA-256 of the bits of z_N."""

    environment: dict[str, Any]
    """What the bits depend on besides the recipe."""

    checks: CheckReport | None = None
    """What the preflight found."""

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
        """Refuse a record of whose figures nothing could be shown."""
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
        return fell and rose(validation[self.chosen], validation[-1])

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
        """Return what is compared: where the descent started, what it chose, the baselines."""
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
        same = not self.chosen or any(each.final == first.final for each in self.baselines)
        return rows[same:] + [
            SetUp(role="baseline", **each.model_dump(include=set(SetUp.model_fields) - {"role"}))
            for each in self.baselines
        ]

    def compared(self) -> dict[str, Any]:
        """Return what ``mgd run --json`` says of an application, as far as the run has it."""
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


def rose(before: float, after: float) -> bool:
    """Say whether a loss rose by more than chance and rounding would explain."""
    return after > before * (1 + NOTICEABLE)


def _on_test(rerun: Rerun) -> dict[str, Scores | None]:
    """Return the figures of a rerun on the test split; None where a training diverged."""
    pair = {"before": rerun.before, "after": rerun.after}
    return {name: None if scores is None else scores["test"] for name, scores in pair.items()}


def read_run(store: str, run: str) -> RunRecord:
    """Read a finished run.

    Raises:
        ConfigurationError: If it has not finished.
        CheckpointCorruptError: If its record is damaged, or that of another version or run.
    """
    url = join(run_folder(store, run), "run.json")
    try:
        record = read_model(url, RunRecord)
    except CheckpointMissingError:
        raise ConfigurationError(
            f"Run {run} in {store} has not finished, so there is nothing to show yet. "
            f"Let it go on with `mgd resume {run}`."
        ) from None
    if record.run != run:
        raise CheckpointCorruptError(
            f"The record at {url} is that of run {record.run[:80]}. Delete it, and let the run go "
            f"on with `mgd resume {run}`, which writes it again."
        )
    return record


def choose(iterates: list[Iterate], *, maximize: bool = False) -> int:
    """Return the outer step with the lowest loss on the validation split, the earliest of equals.

    The objective never sees that split, so an iterate that over-fits the objective is not chosen.

    Args:
        iterates: z_0, ..., z_N.
        maximize: Whether the descent went uphill, so that the highest loss is looked for.
    """
    losses = [iterate.scores["validation"]["loss"] for iterate in iterates]
    return choose_iterate(losses, maximize=maximize)


def summarize_selection(
    recipe: DescentRecipe, value: Tensor, first_gradient: Tensor, corrupted: Tensor
) -> Selection | None:
    """Compare the dropped examples with the corrupted ones; None for other metaparameters."""
    selecting = (MetaparameterName.COUNTS, MetaparameterName.WEIGHTS)
    if recipe.metaparameters.name not in selecting:
        return None
    from sklearn.metrics import roc_auc_score  # a second of import that `import engine` can spare

    dropped = value == 0
    both = corrupted.any() and not corrupted.all()
    # A positive metagradient says that more of this example raises the loss.
    auc = float(roc_auc_score(corrupted.numpy(), first_gradient.numpy())) if both else None
    return Selection(
        examples=len(value),
        corrupted=int(corrupted.sum()),
        dropped=int(dropped.sum()),
        dropped_corrupted=int(torch.logical_and(dropped, corrupted).sum()),
        auc=auc,
    )
