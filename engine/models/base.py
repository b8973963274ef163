"""Description of a shipped model, which stands at the end of its file."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from engine.recipes.arguments.model import ModelSettings, Norm

Features = Callable[[ModelSettings, tuple[int, ...], int], tuple[nn.Module, int]]
"""Maps (settings, shape of one example, number of logits) to everything before the head, and the
number of its outputs."""

Check = Callable[[ModelSettings, tuple[int, ...]], None]
"""Refuses settings that the model, or examples of that shape, cannot have."""


def _nothing(_settings: ModelSettings, _input_shape: tuple[int, ...]) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Model:
    """A shipped model; ``engine.models.build`` finds it by its file's name.

    Attributes:
        features: Makes what stands before the head.
        norms: Normalizations that it takes.
        reads: Settings that it reads, of those that not every model reads. A setting that no model
            names here is read by all, such as ``width``.
        check: Raises ``ConfigurationError`` for what does not fit.
        on_tokens: Whether it reads token ids, and so no pictures.
    """

    features: Features
    norms: frozenset[Norm]
    reads: frozenset[str] = frozenset()
    check: Check = _nothing
    on_tokens: bool = False
