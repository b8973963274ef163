"""Blocks of a GPT and a ViT, whose attention can be differentiated twice."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.attention import attention
from engine.models.parts import ACTIVATIONS, dropout, normalization
from engine.recipes.arguments.model import ModelSettings, NormPosition

_INITIAL_SCALE = 0.02
"""Standard deviation of initial weights, as in GPT-2."""


def check_heads(settings: ModelSettings) -> None:
    """Refuse heads of unequal size.

    Raises:
        ConfigurationError: If it is refused; names the setting to change.
    """
    if settings.width % settings.heads:
        raise ConfigurationError(
            f"arguments.model.heads is {settings.heads}, which does not divide "
            f"arguments.model.width {settings.width}, so the heads would differ in size. Change "
            "one of them."
        )


class Attention(nn.Module):
    """Multi-head attention with a second derivative, fused where there are many tokens."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, inputs: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Let every token read all tokens, or those up to itself if causal."""
        split = self.inputs(inputs).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, size)
        read = attention(query, key, value, is_causal=self.causal)
        return self.output(read.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a two-layer network of four times the width, each with a residual sum."""

    def __init__(self, settings: ModelSettings, *, causal: bool) -> None:
        super().__init__()
        width = settings.width
        self.attention = nn.Sequential(
            Attention(width, settings.heads, causal=causal), *dropout(settings)
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            ACTIVATIONS[settings.activation](),
            nn.Linear(4 * width, width),
            *dropout(settings),
        )
        self.norms = nn.ModuleList(_norm(settings) for _ in range(2))
        self.norm_first = settings.norm_position is NormPosition.BEFORE

    def forward(
        self, inputs: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the tokens after both sums."""
        hidden = inputs
        for part, norm in zip((self.attention, self.mlp), self.norms, strict=True):
            hidden = hidden + part(norm(hidden)) if self.norm_first else norm(hidden + part(hidden))
        return hidden


def body(settings: ModelSettings, embedding: nn.Module, *, causal: bool) -> nn.Module:
    """Return embedding, blocks and last normalization, with GPT-2's initial weights."""
    blocks = [Block(settings, causal=causal) for _ in range(settings.depth)]
    last = [_norm(settings)] if settings.norm_position is NormPosition.BEFORE else []
    whole = nn.Sequential(embedding, *dropout(settings), *blocks, *last)
    for name, parameter in whole.named_parameters():
        if parameter.ndim > 1:
            # Each block adds two outputs to the residual sum: scaled, its variance stays as it is.
            residual = name.endswith(("output.weight", "mlp.2.weight"))
            scale = _INITIAL_SCALE / math.sqrt(2 * settings.depth) if residual else _INITIAL_SCALE
            nn.init.normal_(parameter, std=scale)
    return whole


def _norm(settings: ModelSettings) -> nn.Module:
    return nn.Sequential(*normalization(settings, settings.width, nn.BatchNorm1d))
