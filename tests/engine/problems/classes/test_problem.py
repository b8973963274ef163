"""A data set with a shipped model as a problem."""

import pytest
import torch

from engine.problems.classes.problem import classifier
from engine.problems.data.splits import DataSet, Examples
from engine.recipes.arguments.model import ModelSettings

SHAPE, CLASSES = (3, 8, 8), 4


def data_set():
    """Pictures with three channels."""
    drawn = torch.Generator().manual_seed(0)
    splits = {
        name: Examples(torch.randn(5, *SHAPE, generator=drawn), torch.arange(5) % CLASSES)
        for name in ("train", "objective", "validation", "test")
    }
    return DataSet(splits, CLASSES, torch.zeros(5, dtype=torch.bool), "0", None, torch.arange(5))


@pytest.mark.parametrize("name", ["logistic", "mlp", "resnet"])
def test_the_model_reads_examples_of_this_shape(name):
    """All axes but the first, which counts the examples: pictures of grey hide a mistake there."""
    problem = classifier(data_set(), ModelSettings(name=name, width=4), torch.float32)

    made = problem.model(7)

    assert made(problem.train.inputs).shape == (5, CLASSES)
    assert problem.score(made, problem.train, 3).keys() == {"loss", "accuracy"}
