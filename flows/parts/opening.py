"""Beginning of a flow: applies its form, refuses impossible recipes and opens the workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from engine.recipes.files import Recipe
from engine.storage.location import absolute
from flows.parts.form import taken_from_form
from tasks.growing import told_if_stopped
from tasks.running.attempt import one_process
from tasks.running.workers import Workers, open_workers

_Recipe = TypeVar("_Recipe", bound=Recipe)


class Form(NamedTuple):
    """Changes that the form of a flow makes to its recipe.

    Attributes:
        settings: Assignments ``dotted.key=value``.
        arguments: Arguments of the recipe's problem, by name.
        fields: Settings that have a field of their own, by its name.
    """

    settings: Sequence[str] | None
    arguments: Mapping[str, Any] | None
    fields: Mapping[str, Any]


@contextmanager
def opened(
    recipe: _Recipe,
    store: str,
    form: Form,
    title_of: Callable[[_Recipe], str],
    check: Callable[[_Recipe, str], None],
) -> Iterator[tuple[_Recipe, str, Workers]]:
    """Refuse a recipe that cannot run, before anything is computed; then open its workers.

    Args:
        recipe: As it was handed to the flow.
        store: Where the run is kept: a path or a URL.
        form: What changes the recipe.
        title_of: Makes the title of the page that says why a start ended, if it does.
        check: Raises if the recipe cannot run.

    Yields:
        The recipe with what the form changes, the store as an absolute place, and the workers.
    """
    recipe = taken_from_form(recipe, store, form.settings, form.arguments, **form.fields)
    store = absolute(store)
    with told_if_stopped(recipe, store, title_of(recipe)):
        check(recipe, store)
        with one_process(recipe, store), open_workers(recipe.workers) as workers:
            yield recipe, store, workers
