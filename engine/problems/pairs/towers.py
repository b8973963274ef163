"""Two towers: an image and a caption become unit vectors of the same space.

The image tower is any shipped model of images, its head as the projection. The text tower is a
causal transformer that is read at the token that ends a caption, which sees no padding. The learned
temperature is bounded by a smooth function: a clamp would have no derivative beyond its bound, and
a kink at it. A module of the user's may stand in place of both towers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.build import build_model, initialization, model_of
from engine.models.gpt import gpt_features
from engine.numerics.determinism import seed_for
from engine.problems.pairs.captions import END
from engine.problems.user_models import own_model, sizes
from engine.recipes.arguments.model import Activation, ModelName, ModelSettings, Norm
from engine.recipes.arguments.pairs import ContrastiveSettings

_TINY = 1e-12
"""Added to squared norms, so that a vector of zeros has a derivative."""


class Compared(nn.Module):
    """Maps (images, tokens) to unit vectors of both sides, and learns the temperature.

    A subclass has the parts that make the vectors, and calls ``start`` after it has made them.
    """

    def start(self, temperature: float, min_temperature: float) -> None:
        """Make the parameter of the temperature.

        Args:
            temperature: Where it starts.
            min_temperature: Lower bound of the temperature.
        """
        self.max_log_scale = -math.log(min_temperature)
        below = self.max_log_scale + math.log(temperature)
        # softplus(max - start) = max - log(1 / temperature), so that it starts as asked for.
        start = self.max_log_scale - math.log(math.expm1(below))
        self.log_scale = nn.Parameter(torch.tensor(start))

    def sides(
        self, images: Float[Tensor, "batch ..."], tokens: Int64[Tensor, "batch tokens"]
    ) -> Sequence[Float[Tensor, "batch embedding"]]:
        """Return the vectors of images and of captions, of any length."""
        raise NotImplementedError

    def forward(
        self, batch: tuple[Float[Tensor, "batch ..."], Int64[Tensor, "batch tokens"]]
    ) -> Float[Tensor, "batch 2 embedding"]:
        """Return the unit vectors of both sides of each pair."""
        return torch.stack([_unit(each) for each in self.sides(*batch)], dim=1)

    def scale(self) -> Float[Tensor, ""]:
        """Return the factor on the cosines, below 1 / min_temperature."""
        below = self.max_log_scale - self.log_scale
        return (self.max_log_scale - torch.logaddexp(below, torch.zeros_like(below))).exp()


class TwoTowers(Compared):
    """Two towers that ship.

    Args:
        images: Maps images to (batch, embedding).
        texts: Maps tokens to (batch, tokens, embedding), each knowing no later one.
        temperature: Where it starts.
        min_temperature: Lower bound of the temperature.
    """

    def __init__(
        self, images: nn.Module, texts: nn.Module, temperature: float, min_temperature: float
    ) -> None:
        super().__init__()
        self.images, self.texts = images, texts
        self.start(temperature, min_temperature)

    def sides(
        self, images: Float[Tensor, "batch ..."], tokens: Int64[Tensor, "batch tokens"]
    ) -> Sequence[Float[Tensor, "batch embedding"]]:
        """Return the vectors of images, and of captions, read where they end."""
        vectors = self.images(images)
        hidden = self.texts(tokens)
        ends = (tokens == END).to(hidden.dtype)
        return vectors, torch.einsum("bt,bte->be", ends, hidden)


class OwnTowers(Compared):
    """A module of the user's in place of both towers.

    Args:
        network: Maps images and tokens to a vector each, both of shape (batch, features).
        name: What the recipe calls it, for messages.
        temperature: Where it starts.
        min_temperature: Lower bound of the temperature.
    """

    def __init__(
        self, network: nn.Module, name: str, temperature: float, min_temperature: float
    ) -> None:
        super().__init__()
        self.network, self.name = network, name
        self.start(temperature, min_temperature)

    def sides(
        self, images: Float[Tensor, "batch ..."], tokens: Int64[Tensor, "batch tokens"]
    ) -> Sequence[Float[Tensor, "batch embedding"]]:
        """Return the embeddings of pictures and of texts.

        Raises:
            ConfigurationError: If that is anything but a vector for each image and each caption.
        """
        found = self.network(images, tokens)
        made: list[Any] = [*found] if isinstance(found, list | tuple) else []
        shapes = [list(each.shape) if isinstance(each, Tensor) else [] for each in made]
        wanted = [len(images), *shapes[0][1:]] if shapes else []
        if len(wanted) != 2 or shapes != [wanted, wanted]:
            shown = " and ".join(str(tuple(each)) for each in shapes) or type(found).__name__
            raise ConfigurationError(
                f"arguments.model is {self.name}, which returned {shown} for {len(images)} pairs, "
                "but it has to return two tensors of one shape (batch, features): the vectors of "
                "the images, and those of the captions."
            )
        return made


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
    _check_temperature(settings)
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


def own_towers(
    name: str, settings: ContrastiveSettings, image_shape: tuple[int, ...], vocabulary: int
) -> Callable[[int], OwnTowers]:
    """Return a function of the seed that makes a module of the user's for pairs.

    Args:
        name: ``my_file.py:Net`` or ``package.module:Net``, which is called with those of
            ``input_shape`` (of an image), ``num_inputs``, ``num_outputs`` (the embedding of the
            settings), ``vocabulary`` and ``context`` that its signature has.
        settings: The temperature, and sizes that may be asked for.
        image_shape: (channels, height, width).
        vocabulary: Token ids.

    Raises:
        ConfigurationError: If there is no such class, or settings of a text tower were changed,
            which it does not read.
    """
    _check_temperature(settings)
    for unread in ("text_width", "text_depth", "text_heads"):
        value = getattr(settings, unread)
        if value != ContrastiveSettings.model_fields[unread].default:
            raise ConfigurationError(
                f"arguments.contrastive.{unread} is {value}, but arguments.model is {name}, a "
                "model of your own in place of both towers. Leave one of them out."
            )
    known = sizes(image_shape, settings.embedding)
    make = own_model(name, {**known, "vocabulary": vocabulary, "context": settings.context})
    return lambda seed: OwnTowers(make(seed), name, settings.temperature, settings.min_temperature)


def _check_temperature(settings: ContrastiveSettings) -> None:
    if settings.temperature <= settings.min_temperature:
        raise ConfigurationError(
            f"arguments.contrastive.temperature is {settings.temperature:g}, which is not above "
            f"its bound arguments.contrastive.min_temperature {settings.min_temperature:g}. "
            "Raise it, or lower the bound."
        )
