"""What a run is called wherever people read it: its name, and what differs from the shipped recipe.

The name begins with the recipe's and ends with the digest of all settings, so it finds the run in
its store; what follows says what somebody has changed.
"""

from collections.abc import Sequence

from engine.recipes.descent import DescentRecipe
from engine.recipes.files import changes_of_shipped
from engine.recipes.names import run_name

_NAMED_CHANGES = 3
"""Changed settings that a title has room for."""


def run_title(recipe: DescentRecipe, seeds: Sequence[int] | None = None) -> str:
    """Return the title of a run, e.g. ``digits-selection-4f80449e: outer.num_steps=3``.

    Args:
        recipe: The set-up.
        seeds: Where it is run once for each of them.
    """
    which = run_name(recipe.descent)
    if seeds is not None:
        which = f"{recipe.name} for seeds {', '.join(map(str, seeds))}"
    differing = changes_of_shipped(recipe) or {}
    changes = [f"{key}={value}" for key, value in differing.items()]
    named = ", ".join(changes[:_NAMED_CHANGES])
    more = len(changes) - _NAMED_CHANGES
    if more > 0:
        named += f" and {more} more"
    return f"{which}: {named}" if named else which
