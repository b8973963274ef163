"""Pictures in classes and a shipped model, as a problem."""

from typing import Any

import torch

from engine.models.build import build_model, check_model
from engine.models.losses import per_example_cross_entropy
from engine.problems.base import Problem
from engine.problems.classes.data_sets import load_data
from engine.problems.data.splits import DataSet
from engine.problems.scores import class_scores
from engine.recipes.arguments.data import DataSettings
from engine.recipes.arguments.model import ModelSettings


def classes_problem(data: DataSettings, model: ModelSettings) -> Problem:
    """Return a data set with labels, and a shipped model that tells its classes apart.

    Raises:
        DataError: If the data cannot be read, or the splits do not fit into them.
        ConfigurationError: If the model does not fit the examples.
    """
    dtype = torch.get_default_dtype()
    return classifier(load_data(data, dtype), model, dtype)


def classifier(read: DataSet, model: ModelSettings, dtype: torch.dtype) -> Problem:
    """Return the problem of a data set that was read and cut already."""
    shape = tuple(read.splits["train"].inputs.shape[1:])
    check_model(model, shape)
    return Problem(
        model=lambda seed: build_model(model, shape, read.num_classes, seed=seed, dtype=dtype),
        loss=per_example_cross_entropy,
        **dict[str, Any](read.splits),
        num_classes=read.num_classes,
        corrupted=read.corrupted,
        true_labels=read.true_labels,
        ids=read.ids,
        bounds=read.bounds,
        fingerprint=read.fingerprint,
        names=read.names or None,
        score=class_scores,
    )
