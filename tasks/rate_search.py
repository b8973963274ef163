"""The stages that train other learning-rate schedules, as Prefect tasks, and their results."""

from prefect import task

from engine.applications.comparisons import rate_search_results as schedule_results
from engine.applications.comparisons import rate_search_stages as schedule_stages
from engine.recipes.descent import DescentRecipe
from engine.recipes.rate_search import Searched
from engine.stages.references import Ref
from tasks.running.stage_task import stage_task


@stage_task("schedules")
def train_chunk(recipe: DescentRecipe, store: str, start: int, stop: int, grid: int) -> Ref:
    """Train a chunk of a grid.

    See ``engine.applications.comparisons.rate_search_stages.train_chunk``.
    """
    del grid  # a part of the key: another grid has other schedules at these places
    return schedule_stages.train_chunk(recipe, store, start, stop)


@stage_task("optuna")
def search_optuna(recipe: DescentRecipe, store: str, trials: int, seed: int) -> Ref:
    """Let Optuna choose.

    See ``engine.applications.comparisons.rate_search_stages.search_optuna``.
    """
    return schedule_stages.search_optuna(recipe, store, trials, seed)


@task(task_run_name="read the grid")
def read_grid(recipe: DescentRecipe, store: str, chunks: list[Ref]) -> Searched:
    """Gather what the grid found.

    See ``engine.applications.comparisons.rate_search_results.read_grid``.
    """
    return schedule_results.read_grid(recipe, store, chunks)


@task(task_run_name="read what Optuna found")
def read_optuna(recipe: DescentRecipe, store: str, ref: Ref) -> Searched:
    """Gather what Optuna found.

    See ``engine.applications.comparisons.rate_search_results.read_optuna``.
    """
    return schedule_results.read_optuna(recipe, store, ref)
