"""Places that a stored recipe names: anyone who can write to the store may have put them there.

A run that goes on, or is verified, reads its data again, from wherever its recipe says: a URL of
somebody's choice would be connected to from this machine, a file of somebody's choice be read by it
and end in a report. So places count only if the person who starts the command has confirmed them,
or has started the very recipe on this machine (``engine.runs.confirmed``), or if they are those of
the recipe that ships under the same name.
"""

from typing import Any

from engine.errors import ConfigurationError
from engine.recipes.code.signatures import arguments_of
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import RECIPES, load_recipe
from engine.recipes.problem_functions import find_function, is_shipped
from engine.runs.confirmed import was_started
from engine.secret_urls import PLACE, is_place

Known = dict[str, Any]


def foreign_places(recipe: DescentRecipe) -> dict[str, str]:
    """Return the places that a recipe names but the shipped recipe of that name does not."""
    known: Known = {}
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
        ConfigurationError: If it is refused; names all of the places, so that they can be
            confirmed.
    """
    found = foreign_places(recipe)
    if found and not was_started(recipe):
        named = "; ".join(f"{name} is {value}" for name, value in found.items())
        raise ConfigurationError(
            f"The recipe of run {run}, as {store} has it, names places that this machine would "
            f"read or connect to: {named}. Whoever can write to that store may have put them "
            "there, and nobody has started this very recipe on this machine. If you know them, say "
            "the same command with --trust-store (in Python: trusted=True)."
        )


def _places(recipe: DescentRecipe) -> Known:
    found: Known = {}
    model = recipe.arguments.get("model")
    if isinstance(model, str) and ":" in model:
        found["arguments.model"] = f"{model} in {recipe.folder or 'the working folder'}"
    if is_shipped(recipe.problem):
        arguments = arguments_of(find_function(recipe.problem, None))
        found |= places_of(arguments, recipe.arguments)
    else:  # code, whose arguments nobody here understands
        found["problem"] = f"{recipe.problem} in {recipe.folder or 'the working folder'}"
    for number, (name, value) in enumerate(recipe.changes_to_try()):
        if name.startswith("arguments.") and not name.startswith("arguments.model."):
            found[f"search, change {number} of {name}"] = str(value)
    return found


def places_of(model: Any, values: Any, inside: str = "arguments") -> Known:  # noqa: ANN401 (any JSON value)
    """Return the settings of a model that name files, addresses or models of a hub.

    Args:
        model: Settings; a place has the type ``SafeUrl``.
        values: What is set, as JSON values.
        inside: Name of the group.
    """
    found: Known = {}
    for name, field in model.model_fields.items():
        value, key = (values or {}).get(name), f"{inside}.{name}"
        if hasattr(field.annotation, "model_fields"):
            found |= places_of(field.annotation, value, key)
        elif value and (is_place(field.annotation) or PLACE in field.metadata):
            found[key] = tuple(value) if isinstance(value, list) else value
    return found
