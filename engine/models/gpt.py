"""A GPT: a causal transformer on sequences of token ids."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.base import Model
from engine.models.transformer import body, check_heads
from engine.recipes.arguments.model import ModelSettings, Norm


def _check(settings: ModelSettings, input_shape: tuple[int, ...]) -> None:
    check_heads(settings)
    if len(input_shape) != 1:
        raise ConfigurationError(
            f"Examples have shape {input_shape}, but a gpt reads sequences of token ids, shape "
            "(tokens,). Set arguments.model.name to vit or mlp."
        )


class Tokens(nn.Module):
    """Embeddings of token ids and of their positions."""

    def __init__(self, num_tokens: int, context: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(num_tokens, width)
        self.position = nn.Parameter(torch.zeros(context, width))

    def forward(self, inputs: Int64[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        """Return the sums; a sequence may be shorter than the context."""
        return self.token(inputs) + self.position[: inputs.shape[1]]


def gpt_features(
    settings: ModelSettings, input_shape: tuple[int, ...], num_tokens: int
) -> tuple[nn.Module, int]:
    """Embeddings and causal blocks: features of each token, which know no later one."""
    embedding = Tokens(num_tokens, input_shape[0], settings.width)
    return body(settings, embedding, causal=True), settings.width


MODEL = Model(
    gpt_features,
    norms=frozenset({Norm.NONE, Norm.LAYER}),
    reads=frozenset({"depth", "dropout", "heads", "norm_position"}),
    check=_check,
    on_tokens=True,
)
