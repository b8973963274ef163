"""The loss of a step as a sum of terms, which can be cut into smaller ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from engine.errors import ConfigurationError
from engine.types import Metaparams


@dataclass(frozen=True)
class Term:
    """A weighted sum of per-example losses that a step's gradient is made of.

    Attributes:
        indices: Examples, shape (batch,).
        weights_of: Maps z and indices to their weights, shape (batch,), or to None for one each.
        purpose: What its random draws are for, besides the step.
        whole: Examples of the term that it was cut from, if it was; they are loaded and augmented
            together.
        start: Where it begins in ``whole``.
        context: The batch that its examples join, if their losses are coupled to one.
        shard: Which shard of its batch it is.
    """

    indices: Tensor
    weights_of: Callable[[Metaparams, Tensor], Tensor | None]
    purpose: tuple[str | int, ...]
    whole: Tensor | None = None
    start: int = 0
    context: "Term | None" = None
    shard: int = 0

    def weights(self, z: Metaparams) -> Tensor | None:
        """Return the weights of the term's examples at z, shape (batch,), or None."""
        return self.weights_of(z, self.indices)

    def at(self, indices: Tensor) -> "Term":
        """Return the same term over other examples."""
        return replace(self, indices=indices)

    def cut(self, size: int) -> list["Term"]:
        """Return terms of at most ``size`` examples, whose sum this is."""
        whole = self.indices if self.whole is None else self.whole
        return [
            replace(
                self,
                indices=self.indices[start : start + size],
                whole=whole,
                start=self.start + start,
            )
            for start in range(0, len(self.indices), size)
        ]


def one_each(losses: Any, count: int) -> Tensor:  # noqa: ANN401 (whatever the loss returned)
    """Return the losses, after checking that they are one number for each of ``count`` examples.

    Raises:
        ConfigurationError: If it is something else.
    """
    if not isinstance(losses, Tensor):
        hint = ""
        if isinstance(losses, tuple | list):
            hint = f" of {len(losses)}"
        elif hasattr(losses, "loss"):
            hint = ", whose .loss is the mean over the batch"
        raise ConfigurationError(
            f"The loss returned a {type(losses).__name__}{hint}. Return one tensor with one loss "
            "for each example: reduction='none', without item(), float(), numpy() or detach()."
        )
    if losses.shape != (count,):
        raise ConfigurationError(
            f"The loss returned shape {tuple(losses.shape)} for {count} examples. "
            "Metagradients need one loss for each example: use reduction='none', and average "
            "over tokens or pixels inside the loss."
        )
    if losses.is_complex():
        raise ConfigurationError(
            f"The loss returned {losses.dtype}, but only real numbers can be made small. Return "
            "their absolute values, or their real parts."
        )
    return losses
