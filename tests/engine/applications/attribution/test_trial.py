"""Whether the trainings without some examples can be carried out as they are asked for."""

import pytest

from engine.applications.attribution.record import prepare
from engine.applications.attribution.stages import preflight
from engine.errors import ConfigurationError
from engine.recipes.files import load_recipe
from tests.helpers.data.own_problem import replaced, write_problem

RECIPE = """
kind: attribution
name: clouds
problem: my_clouds.py:two_clouds
optimizer: {name: sgd, momentum: 0.9}
training: {num_steps: 6, batch_size: 10, threads: 1, learning_rate: 0.1}
metaparameters: {name: weights}
replay: {steps_per_segment: 3}
attribution: {num_queries: 2, drops: [10], num_subsets: 3, baselines: [final-gradient]}
"""
NORMALIZED = replaced(
    "nn.Linear(4, width), nn.GELU()", "nn.Linear(4, width), nn.BatchNorm1d(width)"
)


def recipe_of(folder, problem, *changes):
    changes = [f"attribution.{each}" for each in changes]
    return load_recipe(write_problem(folder, problem, RECIPE), changes)


WAYS = {
    "judged": ("trial_subsets=0",),
    "tried": ("drops=[]",),
    "in stages of one, tried": ("trainings_per_stage=1",),
}


@pytest.mark.parametrize("way", WAYS)
def test_model_that_cannot_be_batched_is_refused_before_the_training(way, tmp_path):
    """It was after the training, with the argument of a function for a remedy."""
    words = r"attribution.retraining is batched.*running statistics.*retraining to loop\."
    recipe = recipe_of(tmp_path, NORMALIZED, *WAYS[way])

    with pytest.raises(ConfigurationError, match=words):
        prepare(recipe, str(tmp_path / "store"))
    assert not (tmp_path / "store" / "runs").exists()


GOES = {
    "one by one": (NORMALIZED, "retraining=loop"),
    "in stages of one": (NORMALIZED, "trainings_per_stage=1", "trial_subsets=0"),
    "not judged": (NORMALIZED, "drops=[]", "trial_subsets=0"),
    "a model that can be": (replaced("nn.GELU()", "nn.Tanh()"),),
}


@pytest.mark.parametrize("way", GOES)
def test_what_can_be_carried_out_is_not_refused(way, tmp_path):
    """Nothing else asks for a batch."""
    recipe = recipe_of(tmp_path, *GOES[way])

    prepare(recipe, str(tmp_path / "store"))

    assert (tmp_path / "store" / "runs").exists()


def test_check_refuses_what_the_run_would(tmp_path):
    """Before its trial trains anything."""
    recipe = recipe_of(tmp_path, NORMALIZED)

    with pytest.raises(ConfigurationError, match=r"Set attribution.retraining to loop\."):
        preflight(recipe, str(tmp_path / "store"))
    assert not (tmp_path / "store" / "stages" / "trial").exists()
