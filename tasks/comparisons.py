"""The stages of a comparison as Prefect tasks, and their results for the record of the run."""

from typing import Any

from prefect import task

from engine.applications.comparisons import results as compared
from engine.applications.comparisons import stages as comparison_stages
from engine.applications.comparisons.results import Baseline, Rerun, count_examples
from engine.applications.descent.record import Scores
from engine.recipes.comparisons import BaselineName
from engine.recipes.descent import DescentRecipe
from engine.stages.references import Ref
from tasks.running.stage_task import stage_task


@stage_task("baseline")
def baseline(
    recipe: DescentRecipe, store: str, which: BaselineName, start: Ref, final: Ref, chosen: Ref
) -> Ref:
    """Commit a set-up made without a metagradient.

    See ``engine.applications.comparisons.stages.baseline``.
    """
    return comparison_stages.baseline(recipe, store, which, start, final, chosen)


@stage_task("retrain")
def retrain(
    recipe: DescentRecipe, store: str, value: Ref, changes: dict[str, Any], flip_labels: bool
) -> Ref:
    """Train z by another routine; see ``engine.applications.comparisons.stages.retrain``."""
    return comparison_stages.retrain(recipe, store, value, changes, flip_labels=flip_labels)


@task(task_run_name="read rerun {name}")
def read_rerun(store: str, name: str, before: Ref, after: Ref) -> Rerun:
    """Gather what is known of one rerun.

    See ``engine.applications.comparisons.results.read_rerun``.
    """
    return compared.read_rerun(store, name, before, after)


@task(task_run_name="read baseline {name}")
def read_baseline(
    recipe: DescentRecipe,
    store: str,
    name: str,
    value: Ref,
    final: Ref,
    scores: Ref | dict[str, Scores],
) -> Baseline:
    """Gather what is known of one baseline; its scores, or the stage that made them."""
    splits = scores if isinstance(scores, dict) else compared.read_scores(store, scores)
    examples, corrupted = count_examples(recipe, store, value)
    return Baseline(
        name=name,
        value=value,
        final=final,
        scores=splits,
        examples=examples,
        corrupted=corrupted,
    )
