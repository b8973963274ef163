"""Searches over learning-rate schedules, in the run of the descent that they are compared with."""

from engine.recipes.rate_search import Searched, has_optuna
from tasks import rate_search as schedules
from tasks.running.runner import StageRunner


def search_schedules(stages: StageRunner) -> tuple[Searched | None, Searched | None]:
    """Train the grid and let Optuna search, as far as the recipe asks for them.

    Optuna is an extra; where it is not installed, the report says so.
    """
    recipe, wanted = stages.recipe, stages.recipe.schedules
    chunks = [
        stages.submit(
            schedules.train_chunk,
            f"grid {places.start}-{places.stop}",
            start=places.start,
            stop=places.stop,
            grid=wanted.grid,
        )
        for places in wanted.chunks
    ]
    trials = recipe.outer.num_steps + 1  # the trainings that the descent has
    searched = (
        stages.submit(
            schedules.search_optuna,
            f"optuna, {trials} trials",
            trials=trials,
            seed=recipe.outer.seed,
        )
        if wanted.optuna and has_optuna()
        else None
    )
    refs = [chunk.result() for chunk in chunks]
    return (
        schedules.read_grid(recipe, stages.store, refs) if refs else None,
        schedules.read_optuna(recipe, stages.store, searched.result()) if searched else None,
    )
