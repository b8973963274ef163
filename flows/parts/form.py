"""Values of a form, filled into a recipe, also where only the store has its problem's code."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from engine.problems.kept_code import at_hand
from engine.recipes.files import Recipe
from engine.recipes.forms.fields import filled_in, has_groups
from engine.storage.location import absolute

_Recipe = TypeVar("_Recipe", bound=Recipe)


def taken_from_form(
    recipe: _Recipe,
    store: str,
    settings: Sequence[str] | None,
    arguments: Mapping[str, Any] | None,
    **given: Any,  # noqa: ANN401 (settings of any type)
) -> _Recipe:
    """Return a recipe with what a form says in place of its own.

    Which arguments are groups of settings is said by the signature of the problem's function. A
    worker without its file takes that from the store, if the run may (``workers.code``); the recipe
    goes on naming its own folder.

    Args:
        recipe: What the form was made of.
        store: Path or fsspec URL of the store.
        settings: As for ``filled_in``.
        arguments: Likewise.
        **given: Likewise.

    Raises:
        ConfigurationError: If something cannot be, or the code is needed and nowhere.
    """
    if not has_groups(arguments):
        return filled_in(recipe, settings, arguments, **given)
    beside = at_hand(recipe.descent, absolute(store)).folder
    found = recipe.model_copy(update={"folder": beside})
    made = filled_in(found, settings, arguments, **given)
    return made.model_copy(update={"folder": recipe.folder})
