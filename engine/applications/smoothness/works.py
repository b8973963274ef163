"""Stages that measurements of metasmoothness will carry out, for the estimate of the time left."""

import math

from engine.planning.expected import Expected
from engine.preflight.moved import never_around
from engine.problems.built import build_problem
from engine.progress.time_left import Work
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.recipes.smoothness import (
    MetasmoothnessRecipe,
    SmoothSearchRecipe,
    at_rate,
    descent_of,
)
from engine.recipes.training import Retraining


def works(recipe: MetasmoothnessRecipe, expected: Expected, store: str | None = None) -> list[Work]:
    """Return the stages of a measurement; whether trainings go together depends on its problem.

    Args:
        recipe: Recipe of the measurement.
        expected: What one training of it takes.
        store: fsspec URL of the run's store, as for ``build_problem``.
    """
    moved = _moved(recipe, expected, store)
    return [*scored_works(expected), *moved, expected.report()]


def works_of_search(
    recipe: SmoothSearchRecipe, expected: Expected, store: str | None = None
) -> list[Work]:
    """Return the stages of a search, each routine as costly as the unchanged one.

    A routine is scored at its own rate and at each that is tried, and measured at its own and at
    the one that matches. What was made once is not made again: the baseline matches itself at its
    own rate, if that is tried.
    """
    scored, moved = scored_works(expected), _moved(recipe, expected, store)
    rates, works = {*recipe.learning_rates}, list[Work]()
    for number, routine in enumerate(recipe.routines().values()):
        own = routine.training.learning_rate
        works += [*len(rates | {own}) * scored, *moved]
        works += moved if number or own not in rates else []
    return [*works, expected.report()]


TRY, SCORE, MATCH = "try", "score", "match"
"""Kinds of a search's parts: a routine measured at its own rate, trained at another one, and
measured at the rate that matches."""


def search_parts(
    recipe: SmoothSearchRecipe, expected: Expected, store: str | None = None
) -> list[Work]:
    """Return the parts of a search, which are runs of their own, as works.

    What was made in an earlier part weighs nothing: a routine at its own rate, and the baseline at
    the rate that it matches itself at. The arguments are those of ``works_of_search``.
    """
    scored, moved = (
        math.fsum(work.weight for work in works)
        for works in (scored_works(expected), _moved(recipe, expected, store))
    )
    routines = list(recipe.routines().values())
    own = [routine.training.learning_rate for routine in routines]
    tried = [Work(TRY, scored + moved)] * len(routines)
    scores = [
        Work(SCORE, 0.0 if rate == mine else scored)
        for mine in own
        for rate in recipe.learning_rates
    ]
    matched = [
        Work(MATCH, moved if number or mine not in recipe.learning_rates else 0.0)
        for number, mine in enumerate(own)
    ]
    return [*tried, *scores, *matched, expected.report()]


def scored_works(expected: Expected) -> list[Work]:
    """Return the stages of one training that is scored."""
    return [expected.guess("initial"), *expected.train(), expected.score()]


def _moved(
    recipe: MetasmoothnessRecipe | SmoothSearchRecipe, expected: Expected, store: str | None
) -> list[Work]:
    """Return the stages of a measurement besides its training at z."""
    settings = recipe.smoothness
    extra = settings.landscape
    number = 1 + 2 * settings.directions + extra
    if settings.retraining is Retraining.BATCHED and (
        never_around(build_problem(recipe.descent, store).routine, number) is None
    ):
        return [expected.trainings("along", number)]
    found: list[Work] = []
    for _ in range(2 * settings.directions + extra):
        found += [expected.guess("perturb"), *expected.train("train-at")]
    found += [expected.guess("compare") for _ in range(settings.directions)]
    return [*found, *(expected.guess("output") for _ in range(extra))]


def tried_routines(recipe: SmoothSearchRecipe) -> dict[str, DescentRecipe]:
    """Return the routines of a search by what is changed, each under a name of its own."""
    return {
        name: descent_of(descent, f"{recipe.name}-{number}")
        for number, (name, descent) in enumerate(recipe.routines().items())
    }


def scored_routines(recipe: SmoothSearchRecipe) -> dict[tuple[str, float], DescentRecipe]:
    """Return the trainings whose losses a search matches, by routine's name and learning rate."""
    return {
        (name, rate): recipe.measurement(at_rate(routine, rate)).descent
        for name, routine in tried_routines(recipe).items()
        for rate in recipe.learning_rates
    }


def parts_of(recipe: SmoothSearchRecipe) -> dict[str, str]:
    """Return the names of the runs that a search is made of, each with what people call it."""
    measured = {
        run_name(recipe.measurement(routine).descent): name
        for name, routine in tried_routines(recipe).items()
    }
    for (name, rate), routine in scored_routines(recipe).items():
        measured.setdefault(run_name(routine), f"{name}, learning rate {rate:g}")
    return measured
