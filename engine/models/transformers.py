"""The name of the language models of ``transformers``, which ``engine.problems.texts`` builds."""

from torch import nn

from engine.errors import ConfigurationError
from engine.models.base import Model
from engine.recipes.arguments.model import ModelSettings, Norm


def _features(
    _settings: ModelSettings, _input_shape: tuple[int, ...], _num_classes: int
) -> tuple[nn.Module, int]:
    raise ConfigurationError(
        "arguments.model.name is transformers, whose models read texts. Use "
        "problem: texts, or another arguments.model.name."
    )


MODEL = Model(
    _features,
    norms=frozenset({Norm.NONE}),
    reads=frozenset({"depth", "dropout", "heads"}),
    on_tokens=True,
)
