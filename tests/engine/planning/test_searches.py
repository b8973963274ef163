"""Searches over schedules, in the plan of a run and in its time left."""

import pytest

from engine.planning import searches
from engine.planning.choice import forecast
from engine.planning.expected import Expected, comparison_works
from engine.recipes.replay import ReplayConfig
from tests.engine.planning.test_choice import setting
from tests.tiny_stages import kind

RATES = (*kind("learning-rate"), ("optimizer", "name", "sgd"), ("outer", "update", "SGD"))
SEARCH = (*RATES, ("schedules", {"grid": 25, "chunk": 10, "optuna": True}))


@pytest.fixture(autouse=True)
def optuna(monkeypatch):
    """Is taken to be installed."""
    monkeypatch.setattr(searches, "has_optuna", lambda: True)


def test_plan_counts_the_searches():
    """A grid of a thousand trainings was left out, and took ten times what the plan had said."""
    replay = ReplayConfig(schedule="store-all", steps_per_segment=4)
    with_search, without = setting(*SEARCH), setting(*RATES)

    more = forecast(with_search, replay).seconds.run - forecast(without, replay).seconds.run

    trainings = 3 * 0.7 + 0.25 * 25 + 0.7 + 0.25 * (with_search.recipe.outer.num_steps + 1)
    assert more == pytest.approx(trainings * forecast(without, replay).seconds.train)


def test_time_left_counts_what_the_plan_counts():
    """Both say how many trainings' time they are."""
    recipe = setting(*SEARCH).recipe
    works = [
        w for w in comparison_works(Expected(recipe, None)) if w.kind in ("schedules", "optuna")
    ]

    assert [work.forward for work in works] == [120, 120, 60, 12 * (recipe.outer.num_steps + 1)]
    assert sum(work.weight for work in works) == pytest.approx(12 * searches.searched(recipe))
