"""Bounded versions of two experiments on digits: what the menu does, and what smoothness predicts.

The full ones are the recipes ``*-smooth-search`` and ``tests/bench/bench_smooth_gain.py``.
"""

import pytest

from tests.bench.bench_smooth_gain import RECIPES, measure, smoothness, spearman

MENU = {"activation": "gelu", "output_scale": 0.1}


@pytest.mark.slow
def test_the_menu_makes_training_smooth_at_the_same_learning_rate():
    """A3: Definition 2 rises by 0.3 or more and Definition 1 falls to a third or less."""
    training = {"learning_rate": 0.5, "batch_size": 100}

    (rough_1, rough_2), (smooth_1, smooth_2) = (
        smoothness({"model": {"width": 32, **model}, "training": training}, 4_000, directions=2)
        for model in ({"activation": "relu"}, MENU)
    )

    assert smooth_2 > rough_2 + 0.3
    assert smooth_1 < rough_1 / 3


def test_the_experiment_has_recipes_enough():
    """A rank correlation over fewer than twelve says little."""
    assert len(RECIPES) >= 12


def test_rank_correlation_knows_order_alone():
    """The number that A4 asks for."""
    assert spearman([1.0, 2.0, 3.0], [0.1, 5.0, 6.0]) == pytest.approx(1)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)


@pytest.mark.slow
def test_a_recipe_is_measured_from_smoothness_to_gain():
    """One row of the table: a smooth recipe whose training has left its start gains.

    Fifty steps are the fewest: over fifteen the test loss stays at log 10, where another order of
    the batches moves it more than the choice of examples does.
    """
    (row,) = measure({name: RECIPES[name] for name in ["gelu lr 0.1 batch 100"]}, 5_000, seeds=[0])

    assert row["definition_2"] > 0.9
    assert row["finite"]
    assert row["before"] < 2.25
    assert row["gain"] > 0.05
