"""A descent on the learning rate beside a grid and Optuna, in one run, report and JSON object."""

import pytest

from engine.recipes.files import load_recipe
from flows.descent import descent
from tests.helpers.runs.tiny_recipe import SCHEDULE


@pytest.mark.slow
def test_grid_and_optuna_are_in_the_report_and_the_json_of_the_run(prefect_server, tmp_path):
    """As many trainings for Optuna as for the descent; ranks are of the same validation loss."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    changes = ["outer.num_steps=2", "schedules.grid=6", "schedules.chunk=4", "preflight=advise"]
    recipe, store = load_recipe("digits-schedule", [*SCHEDULE, *changes]), str(tmp_path)

    record = descent(recipe, store)

    content = record.compared()
    own = record.iterates[record.chosen].scores["validation"]["loss"]
    assert record.grid is not None
    assert record.optuna is not None
    assert content["grid"]["trainings"] == 6
    assert content["optuna"] == {
        "trainings": 3,
        "best": record.optuna.losses[0],
        "test": {"loss": record.optuna.best["test"]},
        "rank": 1 + sum(loss < own for loss in record.optuna.losses),
    }
    with open(record.url(store, "report.html")) as file:
        page = file.read()
    assert "Optuna, with as many trainings (3)" in page
    assert f"a validation loss of {record.optuna.best['validation']:.4f} and" in page
    assert "Among 6 one-cycle schedules" in page
