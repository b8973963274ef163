"""Residual networks for images: a small one of any depth, and the paper's ResNet-9."""

from torch import nn

from engine.errors import ConfigurationError
from engine.models.parts import POOLINGS, GlobalPool, Residual, convolution, dropout
from engine.recipes.model import ModelConfig, ModelName

_PIXELS = (-2, -1)


def check_image(config: ModelConfig, input_shape: tuple[int, ...]) -> None:
    """Refuse what is no image, or too small a one.

    Raises:
        ConfigurationError: With the setting to change.
    """
    name = config.name.value
    if len(input_shape) != 3:
        raise ConfigurationError(
            f"Examples have shape {input_shape}, but a {name} needs images of shape (channels, "
            "height, width). Set arguments.model.name to mlp, or choose another problem."
        )
    side = min(input_shape[1:])
    if config.name is ModelName.RESNET9 and side < 8:
        raise ConfigurationError(
            f"Images have {input_shape[1]} x {input_shape[2]} pixels, but a resnet9 halves them "
            "three times. Set arguments.model.name to resnet with a smaller "
            "arguments.model.depth, or to mlp."
        )
    max_depth = side.bit_length() - 1
    if config.name is ModelName.RESNET and config.depth > max_depth:
        raise ConfigurationError(
            f"arguments.model.depth is {config.depth}, but images of {input_shape[1]} x "
            f"{input_shape[2]} pixels can be halved only {max_depth} times, once for each block of "
            f"a resnet. Set arguments.model.depth to at most {max_depth}."
        )


def resnet_features(config: ModelConfig, num_inputs: int) -> tuple[nn.Module, int]:
    """A residual network for small images: stem, blocks, global pooling.

    Each block halves the image, doubles the channels, and ends in a residual pair of
    convolutions. Dropout acts on the pooled features.
    """
    num_channels = config.width
    layers = convolution(config, num_inputs, num_channels)
    for _ in range(config.depth):
        # Pooling first: the convolution and what follows then cost a quarter.
        layers += [
            POOLINGS[config.pooling](),
            *convolution(config, num_channels, 2 * num_channels),
        ]
        num_channels *= 2
        layers.append(_pair(config, num_channels))
    layers += [GlobalPool(config.pooling, _PIXELS), *dropout(config)]
    return nn.Sequential(*layers), num_channels


def resnet9_features(config: ModelConfig, num_inputs: int) -> tuple[nn.Module, int]:
    """The ResNet-9 that the paper and its replications train: eight convolutions and the head.

    Channels are 1, 2, 4 and 8 times the width (64 in the original); the second, third and fourth
    convolution are followed by pooling, the second and fourth then by a residual pair. The last
    pooling takes whatever pixels are left, so that images of 8 x 8 pixels do.
    """
    width = config.width
    layers = [
        *convolution(config, num_inputs, width),
        *convolution(config, width, 2 * width),
        POOLINGS[config.pooling](),
        _pair(config, 2 * width),
        *convolution(config, 2 * width, 4 * width),
        POOLINGS[config.pooling](),
        *convolution(config, 4 * width, 8 * width),
        POOLINGS[config.pooling](),
        _pair(config, 8 * width),
        GlobalPool(config.pooling, _PIXELS),
        *dropout(config),
    ]
    return nn.Sequential(*layers), 8 * width


def _pair(config: ModelConfig, num_channels: int) -> nn.Module:
    return Residual(
        nn.Sequential(
            *convolution(config, num_channels, num_channels),
            *convolution(config, num_channels, num_channels),
        )
    )
