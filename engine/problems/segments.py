"""The segments of a run, which begin anew at the first step that reads z."""

from engine.problems.problem import build_problem
from engine.recipes.descent import DescentRecipe
from engine.schedules.segments import Segment, cut


def first_step(recipe: DescentRecipe) -> int:
    """Return the first step that reads z; the reverse sweep ends there."""
    return build_problem(recipe).routine.first_step


def segments(recipe: DescentRecipe) -> list[Segment]:
    """Cut the run into segments, with a border at the first step that reads z."""
    return cut(recipe.training.num_steps, recipe.replay.steps_per_segment, first_step(recipe))
