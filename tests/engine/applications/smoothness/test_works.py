"""What a search for a smooth routine is expected to do, counted by hand."""

from collections import Counter

import pytest

from engine.applications.smoothness.works import search_parts, works_of_search
from engine.planning.expected import Expected
from engine.recipes.files import load_recipe


@pytest.mark.parametrize(
    ("rates", "trainings", "moved"),
    [("[0.01, 0.03, 0.1, 0.3]", 6 * 4, 6 + 5), ("[0.01, 0.1]", 6 * 3, 6 + 6)],
)
def test_a_search_makes_nothing_twice(rates, trainings, moved):
    """Six routines at four rates, of which one is their own, and the baseline matches itself."""
    recipe = load_recipe("digits-smooth-search", [f"search.learning_rates={rates}"])

    found = Counter(work.kind for work in works_of_search(recipe, Expected(recipe.descent, None)))

    assert found["train"] == found["evaluate"] == trainings
    assert found["train-at"] == moved * 2 * 4  # two for each of four directions
    assert found["compare"] == moved * 4
    assert found["report"] == 1


@pytest.mark.parametrize("rates", ["[0.01, 0.03, 0.1, 0.3]", "[0.01, 0.1]"])
def test_parts_of_a_search_are_all_that_it_makes(rates):
    """By which the time left of the whole is known, and that of each part by its own stages."""
    recipe = load_recipe("digits-smooth-search", [f"search.learning_rates={rates}"])
    expected = Expected(recipe.descent, None)

    parts = search_parts(recipe, expected)

    whole = sum(work.weight for work in works_of_search(recipe, expected))
    assert sum(work.weight for work in parts) == pytest.approx(whole)
    assert len(parts) == 6 * (2 + len(recipe.learning_rates)) + 1
