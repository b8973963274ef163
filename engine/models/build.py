"""Models that ship with the engine, every entry of the design menu, and their per-example loss.

All are twice differentiable on every device. Each is a plain ``nn.Module``; nothing in the engine
depends on these, see ``engine.Routine``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from engine.errors import ConfigurationError
from engine.models.base import Model
from engine.models.parts import Classifier
from engine.recipes.arguments.model import ModelName, ModelSettings
from engine.recipes.members import find_member


def model_of(name: ModelName) -> Model:
    """Return the model of a name: the last line of the file of that name."""
    return find_member("engine.models", name.value, "MODEL")


def build_model(
    settings: ModelSettings,
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
        settings: Architecture and what shapes it.
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
    check_model(settings, input_shape)
    with initialization(seed):
        features, num_features = model_of(settings.name).features(
            settings, input_shape, num_classes
        )
        head = nn.Linear(num_features, num_classes)
    return Classifier(features, head, settings.output_scale).to(dtype)


def check_model(settings: ModelSettings, input_shape: tuple[int, ...]) -> None:
    """Refuse settings that the architecture does not read, or that the examples do not fit.

    Raises:
        ConfigurationError: If a setting is refused; names its value, the reason and the remedy.
    """
    name, model = settings.name.value, model_of(settings.name)
    if settings.norm not in model.norms:
        fitting = " or ".join(sorted(norm.value for norm in model.norms))
        raise ConfigurationError(
            f"arguments.model.norm is {settings.norm.value}, which a {name} model does not have. "
            f"Set arguments.model.norm to {fitting}, or change arguments.model.name."
        )
    model.check(settings, input_shape)
    for setting, readers in sorted(_readers().items()):
        value, default = getattr(settings, setting), ModelSettings.model_fields[setting].default
        if settings.name not in readers and value != default:
            raise ConfigurationError(
                f"arguments.model.{setting} is {value}, which a {name} model does not read. Leave "
                "it out, or set arguments.model.name to "
                f"{' or '.join(sorted(reader.value for reader in readers))}."
            )


def _readers() -> dict[str, set[ModelName]]:
    """Return the models that read a setting, for each that not every model reads."""
    found: dict[str, set[ModelName]] = {}
    for name in ModelName:
        for setting in model_of(name).reads:
            found.setdefault(setting, set()).add(name)
    return found


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
