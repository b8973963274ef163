"""Mixtures of clusters for a task of some classes, and first subsets of a fixed size."""

import pytest
import torch

from engine.applications.comparisons.baselines import proportional, uniform
from engine.errors import DataError
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe

MIXTURE = load_recipe("digits-mixture", ["arguments.num_train=100", "metaparameters.num_groups=4"])


def test_target_classes_are_all_that_is_held_out():
    """The task that counts is what scores and what is differentiated; training sees everything."""
    splits = build_problem(MIXTURE).data.splits

    for name in ("objective", "validation", "test"):
        assert set(splits[name].labels.tolist()) == {3, 5, 8, 9}
    assert set(splits["train"].labels.tolist()) == set(range(10))


def test_target_classes_keep_the_split():
    """Another target must not move examples between training and what is held out."""
    arguments = MIXTURE.arguments | {"target_classes": []}
    every = build_problem(MIXTURE.model_copy(update={"arguments": arguments})).data
    some = build_problem(MIXTURE).data

    kept = torch.isin(every.splits["test"].labels, torch.tensor([3, 5, 8, 9]))

    assert torch.equal(some.splits["test"].inputs, every.splits["test"].inputs[kept])
    assert torch.equal(some.splits["train"].inputs, every.splits["train"].inputs)
    assert some.fingerprint != every.fingerprint


def test_target_class_that_no_example_has_is_refused():
    """An empty split has no mean loss."""
    recipe = load_recipe("digits-mixture", ["arguments.target_classes=[11]"])

    with pytest.raises(DataError, match=r"target_classes is \[11\].*digits"):
        build_problem(recipe)


def test_clusters_put_similar_images_together():
    """Each image is nearest to the mean of its own cluster: what k-means ends with."""
    problem = build_problem(MIXTURE)
    groups, points = problem.kind.groups, problem.data.splits["train"].inputs.flatten(1).double()

    means = torch.stack([points[groups == g].mean(0) for g in range(4)])

    assert torch.equal(torch.cdist(points, means).argmin(1), groups)


def test_baselines_are_equal_shares_of_groups_and_of_examples():
    """Uniform gives groups the same share of the loss, proportional gives examples the same."""
    problem = build_problem(MIXTURE)
    kind, indices = problem.kind, torch.arange(100)

    by_group = kind.weights(uniform(problem, {}, 0, 0), indices)
    by_example = kind.weights(proportional(problem, {}, 0, 0), indices)

    shares = torch.zeros(4).index_add(0, kind.groups, by_group)
    torch.testing.assert_close(shares, torch.full((4,), 25.0))
    torch.testing.assert_close(by_example, torch.ones(100))


def test_first_subset_has_the_size_that_is_asked_for():
    """The budget of a ranked exchange is set by the subset that it starts from."""
    recipe = load_recipe("digits-exchange", ["arguments.num_train=50"])
    other = load_recipe("digits-exchange", ["arguments.num_train=50", "metaparameters.seed=1"])

    counts, others = (build_problem(each).kind.value for each in (recipe, other))

    assert int(counts.sum()) == 30
    assert set(counts.tolist()) == {0.0, 1.0}
    assert not torch.equal(counts, others)
