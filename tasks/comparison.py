"""The stages of a comparison as Prefect tasks, and their results for the record of the run."""

from prefect import task

from engine import commits, comparison_stages
from engine.compared import Baseline, count_examples
from engine.comparison import BaselineName
from engine.config import DescentRecipe
from engine.keys import Ref
from engine.runs import Scores
from tasks.training import stage_options


@task(**stage_options("baseline"))
def baseline(
    recipe: DescentRecipe, store: str, which: BaselineName, start: Ref, final: Ref, chosen: Ref
) -> Ref:
    """Commit a set-up made without a metagradient; see ``engine.comparison_stages.baseline``."""
    return comparison_stages.baseline(recipe, store, which, start, final, chosen)


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
    examples, corrupted = count_examples(recipe, store, value)
    return Baseline(
        name=name,
        value=value,
        final=final,
        scores=commits.read_scalars(store, scores) if isinstance(scores, Ref) else scores,
        examples=examples,
        corrupted=corrupted,
    )
