"""The ResNet-9 that the paper and its replications train."""

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
    if min(input_shape[1:]) < 8:
        raise ConfigurationError(
            f"Images have {input_shape[1]} x {input_shape[2]} pixels, but a resnet9 halves them "
            "three times. Set arguments.model.name to resnet with a smaller "
            "arguments.model.depth, or to mlp."
        )


def _features(
    settings: ModelSettings, input_shape: tuple[int, ...], _num_classes: int
) -> tuple[nn.Module, int]:
    """The ResNet-9 that the paper and its replications train: eight convolutions and the head.

    Channels are 1, 2, 4 and 8 times the width (64 in the original); the second, third and fourth
    convolution are followed by pooling, the second and fourth then by a residual pair. The last
    pooling takes whatever pixels are left, so that images of 8 x 8 pixels do.
    """
    width = settings.width
    layers = [
        *convolution(settings, input_shape[0], width),
        *convolution(settings, width, 2 * width),
        POOLINGS[settings.pooling](),
        residual_pair(settings, 2 * width),
        *convolution(settings, 2 * width, 4 * width),
        POOLINGS[settings.pooling](),
        *convolution(settings, 4 * width, 8 * width),
        POOLINGS[settings.pooling](),
        residual_pair(settings, 8 * width),
        GlobalPool(settings.pooling, PIXELS),
        *dropout(settings),
    ]
    return nn.Sequential(*layers), 8 * width


MODEL = Model(
    _features,
    norms=frozenset(Norm),
    reads=frozenset({"dropout", "norm_position", "pooling"}),
    check=_check,
)
