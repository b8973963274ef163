"""Stages that a run of canaries will carry out, for the estimate of the time left."""

from engine.planning.expected import Expected
from engine.progress.time_left import Work
from engine.recipes.canaries import CanariesRecipe


def works(recipe: CanariesRecipe, expected: Expected) -> list[Work]:
    """Return the stages of an optimization of canaries and its audits."""
    moves = [expected.descent_step("move-canaries") for _ in range(recipe.outer.num_steps)]
    audits = [expected.trainings("audit-canaries", recipe.canaries.num_audits) for _ in range(3)]
    return [expected.preflight(), *moves, *audits, expected.report()]
