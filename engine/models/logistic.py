"""A logistic regression: the head alone."""

import math

from torch import nn

from engine.errors import ConfigurationError
from engine.models.base import Model
from engine.recipes.arguments.model import ModelSettings, Norm


def _check(settings: ModelSettings, _input_shape: tuple[int, ...]) -> None:
    if settings.dropout > 0:
        raise ConfigurationError(
            f"arguments.model.dropout is {settings.dropout}, but a logistic model has no hidden "
            "units to drop. Set arguments.model.dropout to 0, or arguments.model.name to mlp."
        )


def _features(
    _settings: ModelSettings, input_shape: tuple[int, ...], _num_classes: int
) -> tuple[nn.Module, int]:
    """Nothing before the head."""
    return nn.Flatten(), math.prod(input_shape)


MODEL = Model(_features, norms=frozenset({Norm.NONE}), check=_check)
