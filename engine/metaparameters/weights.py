"""Weights of examples, and of their tokens, as metaparameters."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.metaparameters.base import Metaparameter, check_one_each
from engine.metaparameters.charts import Chart, OfExamples
from engine.metaparameters.setup import Setup
from engine.recipes.descent import DescentRecipe


@dataclass(frozen=True, eq=False, repr=False)
class ExampleWeights(Metaparameter):
    """One weight for each example: the loss of step t is sum_i w_i l_i / B over its batch.

    The denominator is the batch size, which does not depend on w.

    Attributes:
        value: w, dimensionless, at least 0, shape (examples,); ones give plain training.
    """

    @classmethod
    def start(cls, setup: Setup) -> "ExampleWeights":
        """Return ones: plain training."""
        return cls(torch.ones(setup.num_examples, dtype=setup.dtype))

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the weights of the chosen iterate."""
        return OfExamples(after, "weight (factor on the loss)")

    def of_first(self, num_examples: int) -> "ExampleWeights":
        """Return the first weights."""
        return replace(self, value=self.value[:num_examples])

    def project(self, value: Tensor) -> Tensor:
        """Clamp to non-negative weights."""
        return value.clamp(min=0)

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return the weights of a batch, shape (batch,)."""
        return z[indices.to(z.device)]


@dataclass(frozen=True, eq=False, repr=False)
class TokenWeights(Metaparameter):
    """One weight for each token of each example, handed to the loss as ``token_weights``.

    Attributes:
        value: Weights, at least 0, shape (examples, tokens); ones give plain training.
    """

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run with another number of examples."""
        check_one_each(name, len(self.value), num_examples)

    def of_first(self, num_examples: int) -> "TokenWeights":
        """Return the weights of the first examples."""
        return replace(self, value=self.value[:num_examples])

    def project(self, value: Tensor) -> Tensor:
        """Clamp to non-negative weights."""
        return value.clamp(min=0)

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return ``token_weights`` of a batch, shape (batch, tokens)."""
        return {"token_weights": z[indices.to(z.device)]}


KIND = ExampleWeights
