"""The cost of searches over learning-rate schedules beside a descent, in trainings."""

import math

from engine.recipes.descent import DescentRecipe
from engine.recipes.rate_search import has_optuna

_TOGETHER, _SCORED = (2.4, 0.15), (0.8, 0.75)
"""Time of n trainings that may be carried out as one, in trainings: the first number, and the
second for each of them; and of those that score several queries besides. One by one they never
take longer. For the small nets of the recipes with a grid, 100 take 14 to 19 trainings."""


def together(number: int, *, scored: bool = False) -> float:
    """Return the time of a stage of several trainings, which may be batched, in trainings.

    Args:
        number: Number of trainings.
        scored: Whether queries are scored after each.
    """
    if scored:
        first, more = _SCORED
        return first + more * number
    first, more = _TOGETHER
    return min(float(number), first + more * number)


def num_trials(recipe: DescentRecipe) -> int:
    """Return the trainings of Optuna; 0 where it is not asked or not installed."""
    return recipe.outer.num_steps + 1 if recipe.schedules.optuna and has_optuna() else 0


def searched(recipe: DescentRecipe) -> float:
    """Return the time of all searches, in trainings; each trial of Optuna waits for the last."""
    return math.fsum(map(together, map(len, recipe.schedules.chunks))) + num_trials(recipe)
