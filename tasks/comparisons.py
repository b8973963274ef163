"""The stages of a comparison as Prefect tasks, and their results for the record of the run."""

from prefect import task

from engine.applications.comparisons import results as compared
from engine.applications.comparisons import stages
from engine.applications.comparisons.results import Baseline, Rerun, count_examples
from engine.applications.descent.record import Scores
from engine.recipes.descent import DescentRecipe
from engine.stages.references import Ref
from engine.stages.run import Run
from tasks.running.stage_task import stage_task

baseline = stage_task(stages.baseline)
retrain = stage_task(stages.retrain)


@task(task_run_name="read rerun {name}")
def read_rerun(store: str, name: str, before: Ref, after: Ref) -> Rerun:
    """Return the record of one rerun, from the results of its stages.

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
    """Return the record of one baseline, from its scores or from the stage that made them."""
    splits = scores if isinstance(scores, dict) else compared.read_scores(store, scores)
    examples, corrupted = count_examples(Run(recipe, store), value)
    return Baseline(
        name=name,
        value=value,
        final=final,
        scores=splits,
        examples=examples,
        corrupted=corrupted,
    )
