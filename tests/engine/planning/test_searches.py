"""Searches over schedules, in the plan of a run and in its time left."""

import pytest

from engine.planning import searches
from engine.planning.choice import MeasuredRun, forecast
from engine.planning.expected import Expected, comparison_works
from engine.problems.built import build_problem
from engine.recipes.replay import ReplaySettings
from engine.replay.step_costs import StepCosts
from engine.replay.sweep_costs import Memory
from tests.helpers.runs.tiny_stages import kind, recipe

RATES = (*kind("learning-rate"), ("optimizer", "name", "sgd"), ("outer", "update", "SGD"))
SEARCH = (*RATES, ("schedules", {"grid": 25, "chunk": 10, "optuna": True}))


def measured(*changes):
    """Return the tiny run on a machine that takes a second for a step."""
    seconds = dict(plain=1.0, product=3.0, traced=1.0, pulled=2.0)
    none = dict.fromkeys(("injected", "seed", "copied", "moved", "saved", "loaded"), 0.0)
    costs = StepCosts(**seconds, **none, state_bytes=100, graph_bytes=1000, paths_agree=True)
    asked, plenty = recipe(*changes), Memory(device=10**12, host=10**12)
    return MeasuredRun(asked, build_problem(asked), costs, plenty, evaluation=0.0)


@pytest.fixture(autouse=True)
def optuna(monkeypatch):
    """Is taken to be installed."""
    monkeypatch.setattr(searches, "has_optuna", lambda: True)


def test_plan_counts_the_searches():
    """A grid of a thousand trainings was left out, and took ten times what the plan had said."""
    replay = ReplaySettings(schedule="store-all", steps_per_segment=4)
    with_search, without = measured(*SEARCH), measured(*RATES)

    more = forecast(with_search, replay).seconds.run - forecast(without, replay).seconds.run

    trainings = 3 * 2.4 + 0.15 * 25 + with_search.recipe.outer.num_steps + 1
    assert more == pytest.approx(trainings * forecast(without, replay).seconds.train)


def test_time_left_counts_what_the_plan_counts():
    """Both say how many trainings' time they are."""
    asked = recipe(*SEARCH)
    works = [
        w for w in comparison_works(Expected(asked, None)) if w.kind in ("schedules", "optuna")
    ]

    assert [work.forward for work in works] == [120, 120, 60, 12 * (asked.outer.num_steps + 1)]
    assert sum(work.weight for work in works) == pytest.approx(12 * searches.searched(asked))


def test_few_trainings_as_one_take_no_longer_than_one_by_one():
    """A batch of one or two gains nothing."""
    found = [searches.together(number) for number in range(1, 200)]

    assert found[:2] == [1.0, 2.0]
    assert found == sorted(found)
    assert all(each <= number for number, each in enumerate(found, 1))
    assert found[99] < 20


def test_trials_that_wait_for_each_other_gain_nothing():
    """Optuna's were counted as one batch: a quarter of what they took."""
    expected = Expected(recipe(*SEARCH), None)

    assert expected.trials("optuna", 41).weight == 41 * expected.trainings("retrain", 1).weight
