"""Poisons made without a metagradient: same images, same bounds, and what each is meant to do."""

import pytest
import torch

from engine import train
from engine.applications.comparisons.baselines import BASELINES
from engine.applications.comparisons.poisons import corrupted_parameters, with_flipped_labels
from engine.applications.comparisons.stages import retrain
from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.comparisons import BaselineName
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe, validate_recipe
from engine.stages.run import Run
from engine.stages.training import initial_value

SMALL = ["arguments.num_train=80", "metaparameters.fraction=0.1", "arguments.model.width=8",
         "training.num_steps=40", "training.batch_size=20"]  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    """A small audit and its clean model."""
    problem = build_problem(load_recipe("digits-poison", SMALL))
    return problem, train(problem.routine)


@pytest.mark.parametrize("name", [BaselineName.RANDOM_PIXELS, BaselineName.GRADIENT_CANCELLING])
def test_pixels_stay_within_what_a_pixel_can_be(name, trained):
    """An image outside of the data's bounds would be found by a look at its range."""
    pixels = BASELINES[name](*trained, 0, 0)

    assert pixels.shape == (8, 1, 8, 8)
    assert float(pixels.min()) >= 0.0
    assert float(pixels.max()) <= 1.0
    assert not torch.equal(pixels, trained[0].kind.value)


def test_cancelling_makes_the_gradient_at_the_bad_parameters_smaller(trained):
    """Its one claim, measured by a plain backward pass over all examples."""
    problem, final = trained
    params = corrupted_parameters(problem, final)
    poisoned = BASELINES[BaselineName.GRADIENT_CANCELLING](problem, final, 0, 0)

    def norm(pixels):
        inputs, labels = problem.routine.examples
        inputs = inputs.clone()
        inputs[problem.kind.chosen] = pixels
        leaf = params.clone().requires_grad_()
        losses = problem.routine.call(
            lambda model: problem.routine.loss(model, (inputs, labels)), leaf, training=False
        )
        return float(torch.autograd.grad(losses.sum(), leaf)[0].norm())

    assert norm(poisoned) < 0.9 * norm(problem.kind.value)


def test_parameters_that_are_aimed_at_are_bad(trained):
    """Otherwise a resting point there would hurt nobody."""
    problem, final = trained
    bad = {**final, "params": corrupted_parameters(problem, final)}

    clean, aimed = (float(problem.routine.evaluate(problem.output, each)) for each in (final, bad))

    assert aimed > 1.2 * clean


def test_flipped_labels_are_those_of_the_chosen_images_alone(trained):
    """The same budget: as many images, and each of them has another label."""
    problem, _ = trained

    flipped = with_flipped_labels(problem, problem.routine, 0)

    changed = flipped.examples[1] != problem.routine.examples[1]
    assert changed.nonzero().flatten().tolist() == problem.kind.chosen.tolist()
    assert torch.equal(flipped.examples[0], problem.routine.examples[0])


def test_rerun_of_other_data_is_refused():
    """With other examples, the chosen pixels would replace other images."""
    with pytest.raises(
        ConfigurationError, match=r"arguments\.seed.*arguments\.model, optimizer, training"
    ):
        load_recipe("digits-poison", ["reruns=[{arguments.seed: 1}]"])


OWN = """
import torch
from engine.stages.run import Run
from engine.problems.base import Problem
from torch import nn
from torch.nn.functional import cross_entropy


def points(shift: float = 0.0, width: int = 4) -> Problem:
    inputs, labels = torch.randn(60, 3) + shift, torch.arange(60) % 2
    model = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, 2))
    loss = lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none")
    return Problem(
        model=model,
        loss=loss,
        train=(inputs[:20], labels[:20]),
        objective=(inputs[20:], labels[20:]),
    )
"""


def test_rerun_of_ones_own_problem_may_not_make_other_examples(tmp_path):
    """Which of its arguments do is known by its examples alone, so these are compared."""
    (tmp_path / "mine.py").write_text(OWN)
    reruns = [{"arguments.width": 5}, {"arguments.shift": 1.0}]
    recipe = validate_recipe(
        {
            "name": "own",
            "folder": str(tmp_path),
            "problem": "mine.py:points",
            "reruns": reruns,
            "training": {"num_steps": 4, "batch_size": 5, "threads": 1},
            "metaparameters": {"name": "weights"},
            "outer": {"update": "sign"},
        },
        "the test",
    )
    run = Run(recipe, str(tmp_path / "store"))
    value = initial_value(run)

    assert retrain(run, value, reruns[0]).stage == "retrain"
    with pytest.raises(ConfigurationError, match="reruns has shift 1.0, which gives.* other ex"):
        retrain(run, value, reruns[1])


def test_rerun_changes_the_routine_and_nothing_else():
    """What carries over to another routine is asked of the same data and the same z."""
    recipe = load_recipe("digits-poison", SMALL)

    other = recipe.rerun({"training.seed": 7, "arguments.model.activation": "relu"})

    assert isinstance(other, DescentRecipe)
    assert (other.training.seed, other.arguments["model"]["activation"]) == (7, "relu")
    assert other.arguments | {"model": None} == recipe.arguments | {"model": None}
    assert torch.equal(build_problem(other).kind.value, build_problem(recipe).kind.value)
