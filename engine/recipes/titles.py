"""Title of a run wherever people read it: its name, and how it differs from the shipped recipe.

The name begins with the recipe's and ends with the digest of all settings, so it finds the run in
its store; what follows says what a user has changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.recipes.descent import DescentRecipe
from engine.recipes.files import changes_of_shipped
from engine.recipes.names import run_name

_LONGEST = 60
"""Letters of a value."""

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
    named = said_changes(changes_of_shipped(recipe) or {})
    return f"{which}: {named}" if named else which


def _short(value: Any) -> str:  # noqa: ANN401 (a setting of any type)
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\u2026"


def said_changes(changes: Mapping[str, Any]) -> str:
    """Return settings that a user has changed in a few words; empty if there are none.

    Args:
        changes: Dotted key to the value.
    """
    all_of_them = [f"{key}={_short(value)}" for key, value in changes.items()]
    named = ", ".join(all_of_them[:_NAMED_CHANGES])
    more = len(all_of_them) - _NAMED_CHANGES
    return f"{named} and {more} more" if more > 0 else named
