"""Baselines in the run of a descent: trained by its stages, cached, and told in its record."""

import csv
import json

import pytest
import torch

from engine import commits, train
from engine.comparison import SELECTIONS
from engine.outputs import classification_scores
from engine.problem import build_problem
from flows.descent import descent
from tests.flows.test_descent import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

NAMES = [name.value for name in SELECTIONS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server):
    """One finished run with all baselines of a selection."""
    store = str(tmp_path_factory.mktemp("store"))
    recipe = small(f"baselines={json.dumps(NAMES)}", "outer.probability=0.7")
    return recipe, store, descent(recipe, store)


def test_each_baseline_scores_what_a_training_outside_of_the_stages_scores(finished):
    """The figures of a baseline are those of a model trained on its subset, by plain calls."""
    recipe, store, record = finished
    problem = build_problem(recipe)
    test = problem.held_out["test"]

    for each in record.baselines:
        routine = problem.routine_at(commits.read_rows(store, each.value)["value"])
        expected = routine.evaluate(
            lambda model: classification_scores(model, test.inputs, test.labels), train(routine)
        )
        assert each.scores["test"] == expected


def test_baselines_train_on_as_many_examples_as_the_chosen_iterate(finished):
    """Another size would say more about the size than about the choice."""
    _, store, record = finished
    chosen = commits.read_rows(store, record.iterates[record.chosen].value)["value"]

    sizes = {each.name: each.examples for each in record.baselines}

    kept = int((chosen > 0).sum())
    assert 0 < kept < 60
    assert sizes == {name: 60 if name == "all-data" else kept for name in NAMES}


def test_all_data_is_where_the_descent_started(finished):
    """It is trained once: what the descent made is used."""
    _, _, record = finished

    assert record.baselines[0].scores == record.iterates[0].scores
    assert record.baselines[0].final == record.iterates[0].final


def test_second_run_trains_no_baseline_again(finished):
    """Baselines are stages like any others."""
    recipe, store, record = finished

    again = descent(recipe, store)

    assert again.stages.cached == again.stages.total == record.stages.total
    assert again.baselines == record.baselines


def test_baselines_change_no_stage_of_the_descent(finished):
    """Adding a baseline to a finished run costs the baseline only."""
    recipe, store, record = finished

    without = descent(recipe.model_copy(update={"baselines": ()}), store)

    assert without.stages.cached == without.stages.total
    assert without.digest == record.digest


def test_run_leaves_the_selection_and_its_figures(finished):
    """Programs read the JSON, people the report, and other trainings the ids."""
    _, store, record = finished
    folder = f"{store}/runs/{record.run}"
    chosen = commits.read_rows(store, record.iterates[record.chosen].value)["value"]

    with open(f"{folder}/selection.csv") as file:
        counts = [float(row["count"]) for row in csv.DictReader(file)]
    with open(f"{folder}/report.html") as file:
        page = file.read()

    assert torch.equal(torch.tensor(counts), chosen)
    assert list(record.compared()["baselines"]) == NAMES
    assert record.compared()["baselines"]["random"].keys() == {"loss", "accuracy"}
    assert all(name in page for name in NAMES)
