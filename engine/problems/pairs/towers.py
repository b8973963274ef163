"""Two towers: an image and a caption become unit vectors of the same space.

The image tower is any shipped model of images, its head as the projection. The text tower is a
causal transformer that is read at the token that ends a caption, which sees no padding. The learned
temperature is bounded by a smooth function: a clamp would have no derivative beyond its bound, and
a kink at it.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.build import build_model, initialization, model_of
from engine.models.gpt import gpt_features
from engine.numerics.determinism import seed_for
from engine.problems.pairs.captions import END
from engine.recipes.arguments.model import Activation, ModelName, ModelSettings, Norm
from engine.recipes.arguments.pairs import ContrastiveSettings

_TINY = 1e-12
"""Added to squared norms, so that a vector of zeros has a derivative."""


class TwoTowers(nn.Module):
    """Maps (images, tokens) to unit vectors.

    Args:
        images: Maps images to (batch, embedding).
        texts: Maps tokens to (batch, tokens, embedding), each knowing no later one.
        temperature: Where it starts.
        min_temperature: Its bound.
    """

    def __init__(
        self, images: nn.Module, texts: nn.Module, temperature: float, min_temperature: float
    ) -> None:
        super().__init__()
        self.images, self.texts = images, texts
        self.max_log_scale = -math.log(min_temperature)
        below = self.max_log_scale + math.log(temperature)
        # softplus(max - start) = max - log(1 / temperature), so that it starts as asked for.
        start = self.max_log_scale - math.log(math.expm1(below))
        self.log_scale = nn.Parameter(torch.tensor(start))

    def forward(
        self, batch: tuple[Float[Tensor, "batch ..."], Int64[Tensor, "batch tokens"]]
    ) -> Float[Tensor, "batch 2 embedding"]:
        """Return the unit vectors of both sides of each pair."""
        images, tokens = batch
        return torch.stack([self.encode_images(images), self.encode_texts(tokens)], dim=1)

    def encode_images(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch embedding"]:
        """Return the unit vectors of images."""
        return _unit(self.images(images))

    def encode_texts(
        self, tokens: Int64[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch embedding"]:
        """Return the unit vectors of captions, read where they end."""
        hidden = self.texts(tokens)
        ends = (tokens == END).to(hidden.dtype)
        return _unit(torch.einsum("bt,bte->be", ends, hidden))

    def scale(self) -> Float[Tensor, ""]:
        """Return the factor on the cosines, below 1 / min_temperature."""
        below = self.max_log_scale - self.log_scale
        return (self.max_log_scale - torch.logaddexp(below, torch.zeros_like(below))).exp()


def _unit(vectors: Float[Tensor, "batch embedding"]) -> Float[Tensor, "batch embedding"]:
    return vectors * (vectors.square().sum(dim=1, keepdim=True) + _TINY).rsqrt()


def build_towers(
    model: ModelSettings,
    settings: ContrastiveSettings,
    image_shape: tuple[int, ...],
    vocabulary: int,
    *,
    seed: int,
    dtype: torch.dtype,
) -> TwoTowers:
    """Build both towers on the CPU; a pure function of the arguments.

    Args:
        model: The image tower.
        settings: The text tower, the shared space and the temperature.
        image_shape: (channels, height, width).
        vocabulary: Token ids.
        seed: Seeds the initial parameters; the towers get different ones.
        dtype: Number format.

    Raises:
        ConfigurationError: If a setting does not fit the pairs.
    """
    if settings.temperature <= settings.min_temperature:
        raise ConfigurationError(
            f"arguments.contrastive.temperature is {settings.temperature:g}, which is not above "
            f"its bound arguments.contrastive.min_temperature {settings.min_temperature:g}. "
            "Raise it, or lower the bound."
        )
    if model_of(model.name).on_tokens or model.output_scale != 1:
        wrong = "name" if model_of(model.name).on_tokens else "output_scale"
        raise ConfigurationError(
            f"arguments.model.{wrong} is {getattr(model, wrong)}, but the image tower of pairs "
            "reads images, and its output is normalized. Use another model, and output_scale 1."
        )
    if settings.text_width % settings.text_heads:
        raise ConfigurationError(
            f"arguments.contrastive.text_heads is {settings.text_heads}, which does not divide "
            f"arguments.contrastive.text_width {settings.text_width}. Change one of them."
        )
    text = ModelSettings(
        name=ModelName.GPT,
        width=settings.text_width,
        depth=settings.text_depth,
        heads=settings.text_heads,
        activation=Activation.GELU,
        norm=Norm.LAYER,
    )
    size = settings.embedding
    image_tower = build_model(model, image_shape, size, seed=seed, dtype=dtype)
    with initialization(seed_for(seed, "text tower")):
        features, width = gpt_features(text, (settings.context,), vocabulary)
        text_tower = nn.Sequential(features, nn.Linear(width, size))
    towers = TwoTowers(image_tower, text_tower, settings.temperature, settings.min_temperature)
    return towers.to(dtype)
