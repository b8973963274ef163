"""A multilayer perceptron."""

import math

from torch import nn

from engine.models.base import Model
from engine.models.parts import linear
from engine.recipes.arguments.model import ModelSettings, Norm


def _features(
    settings: ModelSettings, input_shape: tuple[int, ...], _num_classes: int
) -> tuple[nn.Module, int]:
    """Hidden layers of linear, normalization, activation, dropout; and their width."""
    layers: list[nn.Module] = [nn.Flatten()]
    num_features = math.prod(input_shape)
    for _ in range(settings.depth):
        layers += linear(settings, num_features, settings.width)
        num_features = settings.width
    return nn.Sequential(*layers), num_features


MODEL = Model(
    _features, norms=frozenset(Norm), reads=frozenset({"depth", "dropout", "norm_position"})
)
