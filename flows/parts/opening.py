"""How a flow begins: what cannot run is refused, then its workers are there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from engine.recipes.files import Recipe
from tasks.growing import told_if_stopped
from tasks.running.attempt import one_process
from tasks.running.workers import Workers, open_workers

_Recipe = TypeVar("_Recipe", bound=Recipe)


@contextmanager
def opened(
    recipe: _Recipe, store: str, title: str, check: Callable[[_Recipe, str], None]
) -> Iterator[Workers]:
    """Refuse a recipe that cannot run, before anything is computed; then open its workers.

    Args:
        recipe: With all that a form changes of it.
        store: An absolute place.
        title: Of the page that says why a start ended, if it does.
        check: Refuses it.
    """
    with told_if_stopped(recipe, store, title):
        check(recipe, store)
        with one_process(recipe, store), open_workers(recipe.workers) as workers:
            yield workers
