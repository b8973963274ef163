"""What measurements of metasmoothness will do, for whoever says how long they take."""

from engine.planning.expected import Expected
from engine.progress.time_left import Work
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothnessSettings, SmoothSearchRecipe


def works(recipe: MetasmoothnessRecipe, expected: Expected) -> list[Work]:
    """Return the stages of a measurement."""
    return [*scored_works(expected), *_moved(recipe.smoothness, expected), expected.report()]


def works_of_search(recipe: SmoothSearchRecipe, expected: Expected) -> list[Work]:
    """Return the stages of a search, each routine as costly as the unchanged one.

    A routine is scored at its own rate and at each that is tried, and measured at its own and at
    the one that matches. What was made once is not made again: the baseline matches itself at its
    own rate, if that is tried.
    """
    scored, moved = scored_works(expected), _moved(recipe.smoothness, expected)
    rates, works = {*recipe.learning_rates}, list[Work]()
    for number, routine in enumerate(recipe.routines().values()):
        own = routine.training.learning_rate
        works += [*len(rates | {own}) * scored, *moved]
        works += moved if number or own not in rates else []
    return [*works, expected.report()]


def scored_works(expected: Expected) -> list[Work]:
    """Return the stages of one training that is scored."""
    return [expected.guess("initial"), *expected.train(), expected.score()]


def _moved(settings: SmoothnessSettings, expected: Expected) -> list[Work]:
    """Return the stages of a measurement besides its training at z."""
    extra = settings.landscape
    found: list[Work] = []
    for _ in range(2 * settings.directions + extra):
        found += [expected.guess("perturb"), *expected.train("train-at")]
    found += [expected.guess("compare") for _ in range(settings.directions)]
    return [*found, *(expected.guess("output") for _ in range(extra))]
