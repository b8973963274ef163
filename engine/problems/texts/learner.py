"""The model that learns texts: one that ships, or one of the user's own."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.problems.texts.model import build_language_model, embedding, origin
from engine.problems.user_models import own_model, sizes
from engine.recipes.arguments.text import LanguageModelSettings, LanguageSettings

Models = tuple[LanguageModelSettings | str, LanguageSettings]
"""Sizes of a new model or a class of one's own, and which model it is."""


class Learner(NamedTuple):
    """Parts of a problem that are those of its language model."""

    model: Callable[[int], nn.Module]
    """Maps a seed to a model, which maps tokens to logits."""

    embedding: Callable[[nn.Module], Tensor]
    """Maps the model to the embeddings of all tokens, shape (vocabulary, width)."""

    origin: tuple[str, ...]
    """Packages that its bits depend on."""


def learner(models: Models, vocabulary: int, num_positions: int) -> Learner:
    """Return the learner of a recipe's texts.

    A model of one's own is called with those of ``vocabulary``, ``input_shape``, ``num_inputs``
    and ``num_outputs`` that its signature has. It maps tokens, shape (batch, tokens), to logits,
    shape (batch, tokens, vocabulary), of the token that follows each, which it must not look at.
    Texts are padded at their ends, where no token that counts may see it.

    Args:
        models: Models to load.
        vocabulary: Tokens.
        num_positions: Longest sequence.

    Raises:
        ConfigurationError: If there is no such class, or it takes other arguments.
    """
    model, language = models
    if isinstance(model, str):
        known = {"vocabulary": vocabulary, **sizes((num_positions,), vocabulary)}
        return Learner(own_model(model, known), lambda made: _own_embedding(made, model), ())
    dtype = torch.get_default_dtype()

    def make(seed: int) -> nn.Module:
        return build_language_model(
            model,
            language,
            vocabulary=vocabulary,
            num_positions=num_positions,
            seed=seed,
            dtype=dtype,
        )

    return Learner(make, embedding, origin(language))


def _own_embedding(model: nn.Module, name: str) -> Tensor:
    """Return the embeddings of a model of one's own, if it says what is needed to move them."""
    found = getattr(model, "get_input_embeddings", None)
    if found is None or "shifts" not in inspect.signature(model.forward).parameters:
        raise ConfigurationError(
            f"metaparameters.name is inputs, which moves embedded tokens, but arguments.model is "
            f"{name}, which does not say how. Give it a method get_input_embeddings() that returns "
            "its nn.Embedding, and its forward an argument shifts=None that is added to the "
            "embedded tokens; or use counts or weights."
        )
    return found().weight
