"""A GPT for token sequences and a ViT for images, with attention that differentiates twice."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.attention import attention
from engine.models.parts import ACTIVATIONS, GlobalPool, dropout, normalization
from engine.recipes.model import ModelConfig, ModelName, NormPosition

_INITIAL_SCALE = 0.02
"""Standard deviation of initial weights, as in GPT-2."""


def check_sequence(config: ModelConfig, input_shape: tuple[int, ...]) -> None:
    """Refuse what is no sequence for a GPT, no grid of patches for a ViT, or unequal heads.

    Raises:
        ConfigurationError: With the setting to change.
    """
    if config.width % config.heads:
        raise ConfigurationError(
            f"arguments.model.heads is {config.heads}, which does not divide "
            f"arguments.model.width {config.width}, so the heads would differ in size. Change "
            "one of them."
        )
    if config.name is ModelName.GPT and len(input_shape) != 1:
        raise ConfigurationError(
            f"Examples have shape {input_shape}, but a gpt reads sequences of token ids, shape "
            "(tokens,). Set arguments.model.name to vit or mlp."
        )
    if config.name is ModelName.VIT and (
        len(input_shape) != 3 or any(side % config.patch_size for side in input_shape[1:])
    ):
        raise ConfigurationError(
            f"Examples have shape {input_shape}, and a vit cuts images (channels, height, width) "
            f"into whole patches of arguments.model.patch_size {config.patch_size}. Choose a "
            "patch size that divides height and width, or another arguments.model.name."
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

    def __init__(self, config: ModelConfig, *, causal: bool) -> None:
        super().__init__()
        width = config.width
        self.attention = nn.Sequential(
            Attention(width, config.heads, causal=causal), *dropout(config)
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            ACTIVATIONS[config.activation](),
            nn.Linear(4 * width, width),
            *dropout(config),
        )
        self.norms = nn.ModuleList(_norm(config) for _ in range(2))
        self.norm_first = config.norm_position is NormPosition.BEFORE

    def forward(
        self, inputs: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the tokens after both sums."""
        hidden = inputs
        for body, norm in zip((self.attention, self.mlp), self.norms, strict=True):
            hidden = hidden + body(norm(hidden)) if self.norm_first else norm(hidden + body(hidden))
        return hidden


class Tokens(nn.Module):
    """Embeddings of token ids and of their positions."""

    def __init__(self, num_tokens: int, context: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(num_tokens, width)
        self.position = nn.Parameter(torch.zeros(context, width))

    def forward(self, inputs: Int64[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        """Return the sums; a sequence may be shorter than the context."""
        return self.token(inputs) + self.position[: inputs.shape[1]]


class Patches(nn.Module):
    """Embeddings of an image's patches and of their positions."""

    def __init__(self, input_shape: tuple[int, ...], side: int, width: int) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        self.side = side
        self.patch = nn.Linear(channels * side * side, width)
        self.position = nn.Parameter(torch.zeros((height // side) * (breadth // side), width))

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches embedding"]:
        """Return the sums, row by row."""
        grid = inputs.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))
        patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return self.patch(patches) + self.position


def gpt_features(
    config: ModelConfig, input_shape: tuple[int, ...], num_tokens: int
) -> tuple[nn.Module, int]:
    """Embeddings and causal blocks: features of each token, which know no later one."""
    embedding = Tokens(num_tokens, input_shape[0], config.width)
    return _body(config, embedding, causal=True), config.width


def vit_features(config: ModelConfig, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Patches and blocks, pooled over all patches."""
    embedding = Patches(input_shape, config.patch_size, config.width)
    body = _body(config, embedding, causal=False)
    return nn.Sequential(body, GlobalPool(config.pooling, (1,))), config.width


def _body(config: ModelConfig, embedding: nn.Module, *, causal: bool) -> nn.Module:
    blocks = [Block(config, causal=causal) for _ in range(config.depth)]
    last = [_norm(config)] if config.norm_position is NormPosition.BEFORE else []
    body = nn.Sequential(embedding, *dropout(config), *blocks, *last)
    for name, parameter in body.named_parameters():
        if parameter.ndim > 1:
            # Each block adds two outputs to the residual sum: scaled, its variance stays as it is.
            residual = name.endswith(("output.weight", "mlp.2.weight"))
            scale = _INITIAL_SCALE / math.sqrt(2 * config.depth) if residual else _INITIAL_SCALE
            nn.init.normal_(parameter, std=scale)
    return body


def _norm(config: ModelConfig) -> nn.Module:
    return nn.Sequential(*normalization(config, config.width, nn.BatchNorm1d))
