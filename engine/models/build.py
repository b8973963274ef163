"""Models that ship with the engine, every entry of the design menu, and their per-example loss.

All are twice differentiable on every device. Each is a plain ``nn.Module``; nothing in the engine
depends on these, see ``engine.Routine``.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from engine.errors import ConfigurationError
from engine.models.parts import Classifier, linear
from engine.models.resnet import check_image, resnet9_features, resnet_features
from engine.models.transformer import check_sequence, gpt_features, vit_features
from engine.recipes.model import ModelConfig, ModelName, Norm

_EVERY_NORM = frozenset(Norm)

NORMS: dict[ModelName, frozenset[Norm]] = {
    ModelName.LOGISTIC: frozenset({Norm.NONE}),
    ModelName.MLP: _EVERY_NORM,
    ModelName.RESNET: _EVERY_NORM,
    ModelName.RESNET9: _EVERY_NORM,
    ModelName.GPT: frozenset({Norm.NONE, Norm.LAYER}),
    ModelName.VIT: frozenset({Norm.NONE, Norm.LAYER}),
    ModelName.TRANSFORMERS: frozenset({Norm.NONE}),
}
"""Which normalization each model takes."""

READERS: dict[str, frozenset[ModelName]] = {
    "norm_position": frozenset(ModelName) - {ModelName.LOGISTIC, ModelName.TRANSFORMERS},
    "pooling": frozenset({ModelName.RESNET, ModelName.RESNET9, ModelName.VIT}),
    "heads": frozenset({ModelName.GPT, ModelName.VIT, ModelName.TRANSFORMERS}),
    "patch_size": frozenset({ModelName.VIT}),
    "depth": frozenset(ModelName) - {ModelName.LOGISTIC, ModelName.RESNET9},
    "dropout": frozenset(ModelName) - {ModelName.LOGISTIC},
}
"""Which models read a setting; for others it must keep its default."""


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
        A model in training mode that maps ``(batch, *input_shape)`` to ``(batch, num_classes)``;
        a GPT maps ``(batch, tokens)`` to ``(batch, tokens, num_classes)``.

    Raises:
        ConfigurationError: If a setting does not fit the architecture, or the architecture the
            examples.
    """
    check_model(config, input_shape)
    with initialization(seed):
        features, num_features = _features(config, input_shape, num_classes)
        head = nn.Linear(num_features, num_classes)
    return Classifier(features, head, config.output_scale).to(dtype)


def _features(
    config: ModelConfig, input_shape: tuple[int, ...], num_classes: int
) -> tuple[nn.Module, int]:
    """Everything before the head, and the number of its outputs."""
    match config.name:
        case ModelName.LOGISTIC:
            return nn.Flatten(), math.prod(input_shape)
        case ModelName.MLP:
            return _mlp_features(config, math.prod(input_shape))
        case ModelName.RESNET:
            return resnet_features(config, input_shape[0])
        case ModelName.RESNET9:
            return resnet9_features(config, input_shape[0])
        case ModelName.GPT:
            return gpt_features(config, input_shape, num_classes)
        case ModelName.VIT:
            return vit_features(config, input_shape)
        case ModelName.TRANSFORMERS:
            raise ConfigurationError(
                "arguments.model.name is transformers, whose models read texts. Use "
                "problem: texts, or another arguments.model.name."
            )


def check_model(config: ModelConfig, input_shape: tuple[int, ...]) -> None:
    """Refuse settings that the architecture does not read, or that the examples do not fit.

    Raises:
        ConfigurationError: With the value, the reason and the remedy.
    """
    name = config.name.value
    if config.norm not in NORMS[config.name]:
        fitting = " or ".join(sorted(norm.value for norm in NORMS[config.name]))
        raise ConfigurationError(
            f"arguments.model.norm is {config.norm.value}, which a {name} model does not have. "
            f"Set arguments.model.norm to {fitting}, or change arguments.model.name."
        )
    if config.name is ModelName.LOGISTIC and config.dropout > 0:
        raise ConfigurationError(
            f"arguments.model.dropout is {config.dropout}, but a logistic model has no hidden "
            "units to drop. Set arguments.model.dropout to 0, or arguments.model.name to mlp."
        )
    for setting, readers in READERS.items():
        value, default = getattr(config, setting), ModelConfig.model_fields[setting].default
        if config.name not in readers and value != default:
            raise ConfigurationError(
                f"arguments.model.{setting} is {value}, which a {name} model does not read. Leave "
                "it out, or set arguments.model.name to "
                f"{' or '.join(sorted(reader.value for reader in readers))}."
            )
    if config.name in (ModelName.RESNET, ModelName.RESNET9):
        check_image(config, input_shape)
    if config.name in (ModelName.GPT, ModelName.VIT):
        check_sequence(config, input_shape)


@contextmanager
def initialization(seed: int) -> Iterator[None]:
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
        layers += linear(config, num_features, config.width)
        num_features = config.width
    return nn.Sequential(*layers), num_features
