"""Places that a stored recipe names: whoever can write to the store may have put them there.

A run that goes on, or is verified, reads its data again, from wherever its recipe says: a URL of
somebody's choice would be connected to from this machine, a file of somebody's choice be read by it
and end in a report. So places count only if the person who starts the command has confirmed them,
or if they are those of the recipe that ships under the same name.
"""

from typing import Any

from engine.errors import ConfigurationError
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import RECIPES, load_recipe

PLACES = (
    *("data.url", "text.sources", "text.target"),
    *("language.pretrained", "contrastive.target_url"),
)
"""Settings that name files, addresses or models of a hub."""

_GROUPS = frozenset(name.partition(".")[0] for name in PLACES)


def foreign_places(recipe: DescentRecipe) -> dict[str, str]:
    """Return the places that a recipe names and the shipped one of its name does not."""
    known: dict[str, Any] = dict.fromkeys(PLACES)
    if (RECIPES / f"{recipe.name}.yaml").is_file():
        known = _places(load_recipe(recipe.name))
    return {
        name: ", ".join(value) if isinstance(value, tuple) else str(value)
        for name, value in _places(recipe).items()
        if value and value != known.get(name)
    }


def check_places(recipe: DescentRecipe, run: str, store: str) -> None:
    """Refuse the recipe of a store that names places of its own.

    Raises:
        ConfigurationError: With all of the places, so that they can be confirmed.
    """
    found = foreign_places(recipe)
    if found:
        named = "; ".join(f"{name} is {value}" for name, value in found.items())
        raise ConfigurationError(
            f"The recipe of run {run}, as {store} has it, names places that this machine would "
            f"read or connect to: {named}. Whoever can write to that store may have put them "
            "there. If you know them, say the same command with --trust-store."
        )


def _places(recipe: DescentRecipe) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in PLACES:
        group, setting = name.split(".")
        found[name] = getattr(getattr(recipe, group), setting)
    search = getattr(recipe, "search", None)  # which tries other settings, places among them
    if search is not None:
        tried = [
            *search.grid.items(),
            *(pair for each in search.candidates for pair in each.items()),
        ]
        for number, (name, value) in enumerate(tried):
            if name.partition(".")[0] in _GROUPS:
                found[f"search, change {number} of {name}"] = str(value)
    return found
