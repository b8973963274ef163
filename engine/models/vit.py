"""A ViT: a transformer on the patches of an image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.base import Model
from engine.models.parts import GlobalPool
from engine.models.transformer import body, check_heads
from engine.recipes.arguments.model import ModelSettings, Norm


def _check(settings: ModelSettings, input_shape: tuple[int, ...]) -> None:
    check_heads(settings)
    if len(input_shape) != 3 or any(side % settings.patch_size for side in input_shape[1:]):
        raise ConfigurationError(
            f"Examples have shape {input_shape}, and a vit cuts images (channels, height, width) "
            f"into whole patches of arguments.model.patch_size {settings.patch_size}. Choose a "
            "patch size that divides height and width, or another arguments.model.name."
        )


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


def _features(
    settings: ModelSettings, input_shape: tuple[int, ...], _num_classes: int
) -> tuple[nn.Module, int]:
    """Patches and blocks, pooled over all patches."""
    embedding = Patches(input_shape, settings.patch_size, settings.width)
    patches = body(settings, embedding, causal=False)
    return nn.Sequential(patches, GlobalPool(settings.pooling, (1,))), settings.width


MODEL = Model(
    _features,
    norms=frozenset({Norm.NONE, Norm.LAYER}),
    reads=frozenset({"depth", "dropout", "heads", "norm_position", "patch_size", "pooling"}),
    check=_check,
)
