"""The segments of a run, which begin anew at the first step that reads z.

Both follow from settings, so that the process that hands stages to workers can cut a run without
the data and the device that only they have.
"""

from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import MetaparameterName
from engine.schedules.segments import Segment, cut


def first_step(recipe: DescentRecipe) -> int:
    """Return the first step that reads z; the reverse sweep ends there.

    Counts are read where losses are injected, and nowhere before. Any other metaparameter is read
    from the first step on, or shapes s_0. A test compares with ``Routine.first_step`` for each.
    """
    counts = recipe.metaparameters.name is MetaparameterName.COUNTS
    return recipe.injection_step if counts else 0


def segments(recipe: DescentRecipe) -> list[Segment]:
    """Cut the run into segments, with a border at the first step that reads z."""
    return cut(recipe.training.num_steps, recipe.replay.steps_per_segment, first_step(recipe))
