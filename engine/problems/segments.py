"""The segments of a run, one of which begins at the first step that reads z.

The segments and that step follow from settings alone, so the process that hands stages to workers
needs neither their data nor their device.
"""

from engine.recipes.descent import DescentRecipe
from engine.schedules.segments import Segment, cut


def first_step(recipe: DescentRecipe) -> int:
    """Return the first step that reads z; the reverse sweep ends there.

    Counts are read where losses are injected, and nowhere before. Any other metaparameter is read
    from the first step on, or shapes s_0. A test compares with ``Routine.first_step`` for each.
    """
    injected = recipe.metaparameters.about.is_injected
    return recipe.injection_step if injected else 0


def segments(recipe: DescentRecipe) -> list[Segment]:
    """Cut the run into segments, with a border at the first step that reads z."""
    return cut(recipe.training.num_steps, recipe.replay.steps_per_segment, first_step(recipe))
