"""Weights of examples, of groups of them, and of tokens as metaparameters."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter, _check_one_each, _whole


@dataclass(frozen=True, eq=False, repr=False)
class ExampleWeights(Metaparameter):
    """One weight for each example: the loss of step t is sum_i w_i l_i / B over its batch.

    The denominator is the batch size, which does not depend on w.

    Attributes:
        value: w, dimensionless, at least 0, shape (examples,); ones give plain training.
    """

    def project(self, value: Tensor) -> Tensor:
        """Clamp to non-negative weights."""
        return value.clamp(min=0)

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return the weights of a batch, shape (batch,)."""
        return z[indices.to(z.device)]


@dataclass(frozen=True, eq=False, repr=False)
class GroupWeights(Metaparameter):
    """A mixture of groups of examples: sources, classes or clusters.

    Group g has the share p_g = softmax(value)_g of the loss, whatever the number n_g of its
    examples: example i weighs p_g n / n_g. Equal values are the uniform mixture, and log n_g the
    proportional one, in which every example weighs 1.

    Attributes:
        value: Logits of the shares, shape (groups,).
        groups: Group of each example, integers from 0, shape (examples,).
    """

    groups: Tensor = torch.empty(0, dtype=torch.int64)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "groups", _whole("The groups of GroupWeights", self.groups))
        counts = torch.bincount(self.groups, minlength=len(self.value))
        if len(counts) != len(self.value) or (counts == 0).any():
            raise ConfigurationError(
                f"There are {len(self.value)} group weights, but the groups have {counts.tolist()} "
                "examples. Number the groups from 0, each with at least one example."
            )

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run with another number of examples."""
        del num_steps
        _check_one_each(name, len(self.groups), num_examples)

    def proportional(self) -> Tensor:
        """Return the value at which every example weighs 1, shape (groups,)."""
        counts = torch.bincount(self.groups, minlength=len(self.value)).to(self.value)
        return (counts / counts.sum()).log()

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return the weights of a batch, shape (batch,)."""
        group = self.groups[indices.to(self.groups.device)].to(z.device)
        return (torch.log_softmax(z, 0) - self.proportional().to(z))[group].exp()


@dataclass(frozen=True, eq=False, repr=False)
class TokenWeights(Metaparameter):
    """One weight for each token of each example, handed to the loss as ``token_weights``.

    Attributes:
        value: Weights, at least 0, shape (examples, tokens); ones give plain training.
    """

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run with another number of examples."""
        del num_steps
        _check_one_each(name, len(self.value), num_examples)

    def project(self, value: Tensor) -> Tensor:
        """Clamp to non-negative weights."""
        return value.clamp(min=0)

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return ``token_weights`` of a batch, shape (batch, tokens)."""
        return {"token_weights": z[indices.to(z.device)]}
