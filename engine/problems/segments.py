"""The segments of a run: consecutive steps between two states that are kept in the store."""

from engine.problems.problem import build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Settings


class Segment(Settings):
    """Consecutive steps, half-open."""

    start: int
    """First step."""

    stop: int
    """Step after the last one."""


def first_step(recipe: DescentRecipe) -> int:
    """Return the first step that reads z; the reverse sweep ends there."""
    return build_problem(recipe).routine.first_step


def segments(recipe: DescentRecipe) -> list[Segment]:
    """Cut the run into segments, with a border at the first step that reads z."""
    return cut(recipe.training.num_steps, recipe.replay.steps_per_segment, first_step(recipe))


def cut(num_steps: int, length: int, first: int) -> list[Segment]:
    """Cut T steps into segments of at most ``length`` steps, with a border at ``first``."""
    starts = [*range(0, first, length), *range(first, num_steps, length)]
    return [
        Segment(start=start, stop=stop)
        for start, stop in zip(starts, [*starts[1:], num_steps], strict=True)
    ]
