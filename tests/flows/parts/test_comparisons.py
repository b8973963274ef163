"""Baselines in the run of a descent: trained by its stages, cached, and told in its record."""

import csv
import json

import pytest
import torch

from engine import train
from engine.applications.comparisons.poisons import with_flipped_labels
from engine.problems.built import build_problem
from engine.recipes.comparisons import SELECTIONS
from engine.recipes.files import load_recipe
from engine.routine.outputs import classification_scores
from engine.stages import commits
from flows.descent import descent
from tests.helpers.runs.tiny_recipe import small

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
        routine = problem.routine.at(commits.read_rows(store, each.value)["value"])
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


@pytest.fixture(scope="module")
def audited(tmp_path_factory, prefect_server):
    """A finished audit with all baselines, one other seed and one routine that diverges."""
    store = str(tmp_path_factory.mktemp("audit"))
    changes = [
        *("arguments.num_train=60", "arguments.num_objective=40", "arguments.num_validation=40"),
        *(
            "arguments.num_test=50",
            "arguments.model.width=8",
            "arguments.model.depth=1",
            "training.num_steps=12",
        ),
        *("training.batch_size=10", "outer.num_steps=2", "outer.step_size=0.3"),
        *("metaparameters.fraction=0.1", "replay.steps_per_segment=12", "preflight=advise"),
        "reruns=[{training.seed: 1}, {training.learning_rate: 1.0e+30}]",
    ]
    recipe = load_recipe("digits-poison", changes)
    return recipe, store, descent(recipe, store)


def test_audit_scores_flipped_labels_and_other_seeds_like_plain_trainings(audited):
    """What is no value of z is trained in one stage: against the engine's own training."""
    recipe, store, record = audited
    problem = build_problem(recipe)
    other = build_problem(recipe.rerun({"training.seed": 1}))
    chosen = commits.read_rows(store, record.iterates[record.chosen].value)["value"]

    def score(routine, problem):
        test = problem.held_out["test"]
        return routine.evaluate(
            lambda model: classification_scores(model, test.inputs, test.labels), train(routine)
        )

    flipped = with_flipped_labels(problem, problem.routine, recipe.metaparameters.seed)
    found = {each.name: each.scores["test"] for each in record.baselines}
    assert found["label-flip"] == score(flipped, problem)
    rerun = record.reruns[0]
    assert rerun.before is not None
    assert rerun.after is not None
    assert rerun.before["test"] == score(other.routine, other)
    assert rerun.after["test"] == score(other.routine.at(chosen), other)


def test_diverged_rerun_is_told_and_not_counted(audited):
    """A training that fails would look like a perfect attack."""
    _, _, record = audited

    diverged = record.reruns[1]

    assert (diverged.before, diverged.after) == (None, None)
    assert "diverges, so it says nothing" in " ".join(record.sentences())
    assert record.compared()["reruns"][diverged.name] == {"before": None, "after": None}


def test_damage_adds_up_and_names_images_and_classes(audited):
    """The images' parts are those of the rise; ids find the images in the data set."""
    recipe, _, record = audited
    damage, data = record.damage, build_problem(recipe).data

    assert damage is not None
    assert len(damage.images) == 6
    total = sum(image.damage for image in damage.images)
    assert total == pytest.approx(damage.rise, rel=0.2)
    assert sum(damage.classes.values()) == pytest.approx(total)
    labels = dict(zip(data.ids.tolist(), data.splits["train"].labels.tolist(), strict=True))
    assert all(labels[image.id] == image.label for image in damage.images)
    assert len({image.place for image in damage.images}) == 6
