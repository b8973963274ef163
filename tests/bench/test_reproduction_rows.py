"""The table of reproductions: its rows can be run, and a bound that fails is not a yes."""

import json

import pytest

from engine.recipes.files import load_recipe
from tests.bench.bench_reproductions import (
    DIGITS_SEEDS,
    FASHION_SEEDS,
    carry_out,
    changes_of,
    line,
    object_place,
)
from tests.bench.reproduction_rows import ROWS, Row, above, at_least


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_each_run_of_a_row_is_one_that_its_recipe_allows(name):
    """An hour into the table is too late; and no run has a seed that chose settings."""
    row = ROWS[name]
    seeds = FASHION_SEEDS if row.recipe.startswith("fashion") else DIGITS_SEEDS

    for variant in row.variants:
        recipe = load_recipe(row.recipe, changes_of(row, variant, seeds[0]))

        assert recipe.arguments["seed"] == recipe.training.seed == seeds[0]
        assert {load_recipe(row.recipe).arguments["seed"], 100, 101, 102}.isdisjoint(seeds)


def test_bound_is_counted_in_each_run_and_kept_by_all_or_by_most():
    """A good mean must not hide a seed that failed."""
    runs = [{"x": 1.0}, {"x": 2.0}, {"x": -3.0}]

    strict = line("row", above("gain", lambda run: run["x"]), runs)
    lenient = line("row", above("gain", lambda run: run["x"], most=True), runs)
    high = line("row", at_least("gain", 2, lambda run: run["x"], most=True), runs)

    assert strict == "| row | gain | above 0 | 0.00 | -3.00 to 2.00 | 2 of 3: no |"
    assert lenient.endswith("| 2 of 3: yes |")
    assert high.endswith("| 1 of 3: no |")


def test_finished_run_is_read_and_another_setting_is_not(tmp_path):
    """A table that was killed goes on; a changed recipe must not show old figures."""
    row = Row("digits-selection", [])
    changes = changes_of(row, (), 11)
    place = object_place(row, changes, tmp_path)
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"auc": 0.5}))

    assert carry_out(row, changes, tmp_path, finished=True) == {"auc": 0.5}
    assert carry_out(row, changes_of(row, (), 12), tmp_path, finished=True) is None
