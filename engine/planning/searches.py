"""What searches over schedules cost beside a descent, in trainings."""

import math

from engine.recipes.descent import DescentRecipe
from engine.recipes.rate_search import has_optuna

_TOGETHER, _SCORED = (0.7, 0.25), (0.8, 0.75)
"""Time of n trainings that may be carried out as one, in trainings: the first number, and the
second for each of them; and of those that score several queries besides."""


def together(number: int, *, scored: bool = False) -> float:
    """Return the time of a stage that carries out so many trainings, in trainings.

    Args:
        number: Of trainings.
        scored: Whether queries are scored after each.
    """
    first, more = _SCORED if scored else _TOGETHER
    return first + more * number


def num_trials(recipe: DescentRecipe) -> int:
    """Return the trainings of Optuna; 0 where it is not asked or not installed."""
    return recipe.outer.num_steps + 1 if recipe.schedules.optuna and has_optuna() else 0


def searched(recipe: DescentRecipe) -> float:
    """Return the time of all searches, in trainings."""
    trials = num_trials(recipe)
    numbers = [*map(len, recipe.schedules.chunks), *([trials] if trials else [])]
    return math.fsum(map(together, numbers))
