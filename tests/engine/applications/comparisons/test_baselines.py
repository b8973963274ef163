"""Selections without a metagradient, against slow and obvious references."""

import pytest
import torch
from torch.nn import functional

from engine import train
from engine.applications.comparisons.baselines import BASELINES, example_losses, gradient_cosines
from engine.problems.built import build_problem
from engine.recipes.comparisons import SELECTIONS, BaselineName
from engine.recipes.files import load_recipe
from tests.helpers.trainings import routines

KEPT = 30


@pytest.fixture(scope="module")
def trained():
    """A small selection problem and a model trained on all of its candidates."""
    changes = ["arguments.num_train=50", "arguments.model.width=8", "training.num_steps=40"]
    problem = build_problem(load_recipe("digits-selection", changes))
    return problem, train(problem.routine)


@pytest.mark.parametrize("name", SELECTIONS)
def test_baseline_keeps_as_many_as_it_is_told_and_none_twice(name, trained):
    """A comparison at another size would say more about the size than about the choice."""
    counts = BASELINES[name](*trained, KEPT, 0)

    expected = 50 if name is BaselineName.ALL_DATA else KEPT
    assert sorted(set(counts.tolist())) == ([1.0] if expected == 50 else [0.0, 1.0])
    assert int(counts.sum()) == expected


def test_losses_are_those_of_the_trained_model(trained):
    """Computed one by one, outside the routine's own way of calling the model."""
    problem, final = trained
    model = problem.routine.model.eval()
    views = problem.routine.layout.views(final["params"])
    inputs, labels = problem.routine.examples

    found = example_losses(problem.routine, final)

    for i in range(5):
        logits = torch.func.functional_call(model, views, (inputs[i : i + 1],))
        expected = functional.cross_entropy(logits, labels[i : i + 1])
        assert float(found[i]) == pytest.approx(float(expected), rel=1e-5)


def test_cosines_are_those_of_gradients_taken_one_by_one(trained):
    """Batched gradients that mix examples up would still look like scores."""
    problem, final = trained
    params = final["params"].clone().requires_grad_()
    inputs, labels = problem.routine.examples

    def gradient(function):
        value = problem.routine.call(function, params, training=False)
        return torch.autograd.grad(value.sum(), params)[0]

    found = gradient_cosines(problem.routine, problem.output, final)

    target = gradient(problem.output)
    for i in (0, 17, 49):
        own = gradient(
            lambda model, i=i: problem.routine.loss(model, (inputs[i : i + 1], labels[i : i + 1]))
        )
        assert float(found[i]) == pytest.approx(
            float(torch.cosine_similarity(own, target, dim=0)), abs=1e-5
        )


def test_low_loss_keeps_the_easiest(trained):
    """Kept and dropped the wrong way round, the baseline would flatter the metagradient."""
    problem, final = trained
    losses = example_losses(problem.routine, final)

    kept = BASELINES[BaselineName.LOW_LOSS](problem, final, KEPT, 0) > 0

    assert losses[kept].max() < losses[~kept].min()


def test_random_subset_depends_on_the_seed_alone(trained):
    """The same seed must give the same baseline on every machine."""
    pick = BASELINES[BaselineName.RANDOM]

    assert torch.equal(pick(*trained, KEPT, 3), pick(*trained, KEPT, 3))
    assert not torch.equal(pick(*trained, KEPT, 3), pick(*trained, KEPT, 4))


@pytest.mark.slow
def test_gradient_similarity_of_code_that_keeps_tensors():
    """A log of losses, which would be left with stand-ins of several examples at once."""
    kept = []

    def loss(model, batch):
        kept.append(routines.loss(model, batch))
        return kept[-1]

    plain = routines.routine(num_steps=4)
    final = train(plain)

    found = gradient_cosines(routines.routine(num_steps=4, loss=loss), routines.output, final)

    expected = gradient_cosines(plain, routines.output, final)
    assert found == pytest.approx(expected, rel=1e-6)
    assert all(each.isfinite().all() for each in kept)  # of a stand-in nobody can ask
    assert all(len(each) == 1 for each in kept)


def test_gradient_similarity_of_batches_in_dicts():
    """Most data sets of people give dicts, whose columns a tuple's code would take for names."""
    inputs, labels = routines.examples()
    pairs = routines.routine(num_steps=4)
    dicts = routines.routine(
        num_steps=4,
        examples={"x": inputs, "y": labels},
        loss=lambda model, batch: routines.loss(model, (batch["x"], batch["y"])),
    )
    final = train(pairs)

    found = gradient_cosines(dicts, routines.output, final)

    assert torch.equal(found, gradient_cosines(pairs, routines.output, final))
