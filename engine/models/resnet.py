"""A residual network of any depth for small images."""

from torch import nn

from engine.errors import ConfigurationError
from engine.models.base import Model
from engine.models.parts import (
    PIXELS,
    POOLINGS,
    GlobalPool,
    check_is_image,
    convolution,
    dropout,
    residual_pair,
)
from engine.recipes.arguments.model import ModelSettings, Norm


def _check(settings: ModelSettings, input_shape: tuple[int, ...]) -> None:
    check_is_image(settings, input_shape)
    max_depth = min(input_shape[1:]).bit_length() - 1
    if settings.depth > max_depth:
        raise ConfigurationError(
            f"arguments.model.depth is {settings.depth}, but images of {input_shape[1]} x "
            f"{input_shape[2]} pixels can be halved only {max_depth} times, once for each block of "
            f"a resnet. Set arguments.model.depth to at most {max_depth}."
        )


def _features(
    settings: ModelSettings, input_shape: tuple[int, ...], _num_classes: int
) -> tuple[nn.Module, int]:
    """A residual network for small images: stem, blocks, global pooling.

    Each block halves the image, doubles the channels, and ends in a residual pair of
    convolutions. Dropout acts on the pooled features.
    """
    num_channels = settings.width
    layers = convolution(settings, input_shape[0], num_channels)
    for _ in range(settings.depth):
        # Pooling first: the convolution and what follows then cost a quarter.
        layers += [
            POOLINGS[settings.pooling](),
            *convolution(settings, num_channels, 2 * num_channels),
        ]
        num_channels *= 2
        layers.append(residual_pair(settings, num_channels))
    layers += [GlobalPool(settings.pooling, PIXELS), *dropout(settings)]
    return nn.Sequential(*layers), num_channels


MODEL = Model(
    _features,
    norms=frozenset(Norm),
    reads=frozenset({"depth", "dropout", "norm_position", "pooling"}),
    check=_check,
)
