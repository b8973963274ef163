"""The stages that train other learning-rate schedules, as Prefect tasks, and their results."""

from prefect import task

from engine.applications.comparisons import rate_search_results as schedule_results
from engine.applications.comparisons import rate_search_stages as stages
from engine.recipes.descent import DescentRecipe
from engine.recipes.rate_search import Searched
from engine.stages.references import Ref
from engine.stages.run import Run
from tasks.running.stage_task import stage_task

train_chunk = stage_task(stages.train_chunk)
search_optuna = stage_task(stages.search_optuna)


@task(task_run_name="read the grid")
def read_grid(recipe: DescentRecipe, store: str, chunks: list[Ref]) -> Searched:
    """Return the result of the grid.

    See ``engine.applications.comparisons.rate_search_results.read_grid``.
    """
    return schedule_results.read_grid(Run(recipe, store), chunks)


@task(task_run_name="read what Optuna found")
def read_optuna(recipe: DescentRecipe, store: str, ref: Ref) -> Searched:
    """Return the result of Optuna's search.

    See ``engine.applications.comparisons.rate_search_results.read_optuna``.
    """
    return schedule_results.read_optuna(Run(recipe, store), ref)
