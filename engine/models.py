"""Models that ship with the engine, and their per-example loss.

All are twice differentiable on every device: pooling takes means, normalization uses no batch
statistics, and no buffer changes during training. Each is a plain ``nn.Module``; nothing in the
engine depends on these, see ``engine.Routine``.

Dropout draws from torch's global generator, so whoever calls a model in training mode seeds that
generator first; otherwise a replayed step drops other units.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from engine.config import Activation, ModelConfig, ModelName, Norm
from engine.errors import ConfigurationError

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    Activation.GELU: nn.GELU,
    Activation.RELU: nn.ReLU,
    Activation.TANH: nn.Tanh,
}

NORMS: dict[ModelName, frozenset[Norm]] = {
    ModelName.LOGISTIC: frozenset({Norm.NONE}),
    ModelName.MLP: frozenset({Norm.NONE, Norm.LAYER}),
    ModelName.RESNET: frozenset({Norm.NONE, Norm.GROUP}),
}
"""Which normalization each model takes."""


class Classifier(nn.Module):
    """Features, then one linear layer, then a fixed factor on the logits."""

    def __init__(self, features: nn.Module, head: nn.Linear, output_scale: float) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.output_scale = output_scale

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        return self.output_scale * self.head(self.features(inputs))


class Residual(nn.Module):
    """Add what ``body`` computes to its input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the sum."""
        return inputs + self.body(inputs)


class GlobalAverage(nn.Module):
    """Mean over all pixels of each channel."""

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels"]:
        """Return the means."""
        return inputs.mean(dim=(-2, -1))


def build_model(
    config: ModelConfig,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    seed: int,
    dtype: torch.dtype,
) -> nn.Module:
    """Build a shipped model on the CPU; its parameters are a pure function of the arguments.

    Parameters are drawn in float32 and then converted, so a float64 twin of a float32 run
    starts from the same numbers. The global generator is left as it was.

    Args:
        config: Architecture and what shapes it.
        input_shape: Shape of one example, without the batch axis.
        num_classes: Number of logits.
        seed: Seeds the initial parameters.
        dtype: Number format of the parameters.

    Returns:
        A model in training mode that maps ``(batch, *input_shape)`` to ``(batch, num_classes)``.

    Raises:
        ConfigurationError: If a setting does not fit the architecture, or the images are too
            small for the number of blocks.
    """
    _check(config, input_shape)
    with _initialization(seed):
        match config.name:
            case ModelName.LOGISTIC:
                features, num_features = nn.Flatten(), math.prod(input_shape)
            case ModelName.MLP:
                features, num_features = _mlp_features(config, math.prod(input_shape))
            case ModelName.RESNET:
                features, num_features = _resnet_features(config, input_shape[0])
        head = nn.Linear(num_features, num_classes)
    return Classifier(features, head, config.output_scale).to(dtype)


def per_example_cross_entropy(
    model: Callable[[Tensor], Tensor],
    batch: tuple[Shaped[Tensor, "batch ..."], Int64[Tensor, " batch"]],
    *,
    label_smoothing: Float[Tensor, ""] | float | None = None,
) -> Float[Tensor, " batch"]:
    """Return each example's cross-entropy loss in nats, not averaged.

    Args:
        model: Maps inputs to logits; an ``nn.Module`` or any function.
        batch: Inputs and labels.
        label_smoothing: Share of the target that is spread evenly over all classes; none by
            default. It may be a metaparameter.
    """
    inputs, labels = batch
    logits = model(inputs)
    losses = F.cross_entropy(logits, labels, reduction="none")
    if label_smoothing is None:
        return losses
    even = -F.log_softmax(logits, dim=1).mean(dim=1)
    return (1 - label_smoothing) * losses + label_smoothing * even


def _check(config: ModelConfig, input_shape: tuple[int, ...]) -> None:
    name = config.name.value
    if config.norm not in NORMS[config.name]:
        fitting = " or ".join(sorted(norm.value for norm in NORMS[config.name]))
        raise ConfigurationError(
            f"model.norm is {config.norm.value}, which a {name} model does not have. "
            f"Set model.norm to {fitting}, or change model.name."
        )
    if config.name is ModelName.LOGISTIC and config.dropout > 0:
        raise ConfigurationError(
            f"model.dropout is {config.dropout}, but a logistic model has no hidden units to "
            "drop. Set model.dropout to 0, or model.name to mlp."
        )
    if config.name is ModelName.RESNET:
        _check_image(config, input_shape)


def _check_image(config: ModelConfig, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise ConfigurationError(
            f"Examples have shape {input_shape}, but a resnet needs images of shape (channels, "
            "height, width). Set model.name to mlp, or choose another data.name."
        )
    max_depth = min(input_shape[1:]).bit_length() - 1
    if config.depth > max_depth:
        raise ConfigurationError(
            f"model.depth is {config.depth}, but images of {input_shape[1]} x {input_shape[2]} "
            f"pixels can be halved only {max_depth} times, once for each block of a resnet. "
            f"Set model.depth to at most {max_depth}."
        )


@contextmanager
def _initialization(seed: int) -> Iterator[None]:
    """Make new parameters a function of the seed alone, whatever torch's defaults are."""
    default_dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed: that would seed the generators of the GPUs too.
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default_dtype)


def _mlp_features(config: ModelConfig, num_inputs: int) -> tuple[nn.Module, int]:
    """Hidden layers of linear, normalization, activation, dropout; and their width."""
    layers: list[nn.Module] = [nn.Flatten()]
    num_features = num_inputs
    for _ in range(config.depth):
        layers.append(nn.Linear(num_features, config.width))
        if config.norm is Norm.LAYER:
            layers.append(nn.LayerNorm(config.width))
        layers.append(ACTIVATIONS[config.activation]())
        layers += _dropout(config)
        num_features = config.width
    return nn.Sequential(*layers), num_features


def _resnet_features(config: ModelConfig, num_inputs: int) -> tuple[nn.Module, int]:
    """A ResNet-9 for small images when depth is 2: stem, blocks, global average.

    Each block halves the image with a mean over 2 x 2 pixels, doubles the channels, and ends in
    a residual pair of convolutions. Dropout acts on the global averages.
    """
    num_channels = config.width
    layers = _convolution(config, num_inputs, num_channels)
    for _ in range(config.depth):
        # Pooling first: the convolution and what follows then cost a quarter.
        layers += [nn.AvgPool2d(2), *_convolution(config, num_channels, 2 * num_channels)]
        num_channels *= 2
        pair = [
            *_convolution(config, num_channels, num_channels),
            *_convolution(config, num_channels, num_channels),
        ]
        layers.append(Residual(nn.Sequential(*pair)))
    layers += [GlobalAverage(), *_dropout(config)]
    return nn.Sequential(*layers), num_channels


def _convolution(config: ModelConfig, num_inputs: int, num_outputs: int) -> list[nn.Module]:
    """A 3 x 3 convolution that keeps the image's size, normalization, activation."""
    has_norm = config.norm is Norm.GROUP  # its own bias makes the convolution's redundant
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size=3, padding=1, bias=not has_norm)
    # Torch's default shrinks the signal in every layer; behind a normalization, small weights
    # mean large relative steps. Fashion-MNIST, 400 steps: accuracy 0.86 instead of 0.81.
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    layers: list[nn.Module] = [convolution]
    if has_norm:
        layers.append(nn.GroupNorm(_num_groups(num_outputs), num_outputs))
    layers.append(ACTIVATIONS[config.activation]())
    return layers


def _num_groups(num_channels: int) -> int:
    """At most 4, so that a group holds several channels even where one pixel is left."""
    return math.gcd(num_channels, 4)


def _dropout(config: ModelConfig) -> list[nn.Module]:
    return [nn.Dropout(config.dropout)] if config.dropout > 0 else []
