"""The stages of a comparison as Prefect tasks, and their results for the record of the run."""

from typing import Any

from prefect import task

from engine import compared, comparison_stages
from engine.compared import Baseline, Rerun, count_examples
from engine.comparison import BaselineName
from engine.config import DescentRecipe
from engine.keys import Ref
from engine.runs import Scores
from tasks.stage_task import stage_task


@stage_task("baseline")
def baseline(
    recipe: DescentRecipe, store: str, which: BaselineName, start: Ref, final: Ref, chosen: Ref
) -> Ref:
    """Commit a set-up made without a metagradient; see ``engine.comparison_stages.baseline``."""
    return comparison_stages.baseline(recipe, store, which, start, final, chosen)


@stage_task("retrain")
def retrain(
    recipe: DescentRecipe, store: str, value: Ref, changes: dict[str, Any], flip_labels: bool
) -> Ref:
    """Train z by another routine; see ``engine.comparison_stages.retrain``."""
    return comparison_stages.retrain(recipe, store, value, changes, flip_labels=flip_labels)


@task(task_run_name="read rerun {name}")
def read_rerun(store: str, name: str, before: Ref, after: Ref) -> Rerun:
    """Gather what is known of one rerun; see ``engine.compared.read_rerun``."""
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
