"""What measurements of metasmoothness will do, for whoever says how long they take."""

from engine.planning.expected import Expected
from engine.progress.time_left import Work
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothnessSettings, SmoothSearchRecipe


def works(recipe: MetasmoothnessRecipe, expected: Expected) -> list[Work]:
    """Return the stages of a measurement."""
    return [*_measured(recipe.smoothness, expected), expected.report()]


def works_of_search(recipe: SmoothSearchRecipe, expected: Expected) -> list[Work]:
    """Return the stages of a search, each routine as costly as the unchanged one.

    A routine is measured at its own rate and at one that matches, and scored at each rate.
    """
    measured = _measured(recipe.smoothness, expected)
    scored = scored_works(expected)
    each = [*measured, *len(recipe.learning_rates) * scored, *measured]
    return [*len(recipe.routines()) * each, expected.report()]


def scored_works(expected: Expected) -> list[Work]:
    """Return the stages of one training that is scored."""
    return [expected.guess("initial"), *expected.train(), expected.score()]


def _measured(settings: SmoothnessSettings, expected: Expected) -> list[Work]:
    extra = settings.landscape
    found = scored_works(expected)
    for _ in range(2 * settings.directions + extra):
        found += [expected.guess("perturb"), *expected.train("train-at")]
    found += [expected.guess("compare") for _ in range(settings.directions)]
    return [*found, *(expected.guess("output") for _ in range(extra))]
