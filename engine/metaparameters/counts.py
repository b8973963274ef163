"""Counts of examples as metaparameters: how often each one is in the training data."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.charts import Chart, OfExamples
from engine.metaparameters.setup import Setup
from engine.numerics.determinism import generator
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import MetaparametersConfig


@dataclass(frozen=True, eq=False)
class Counts(Metaparameter):
    """How often each example is used, by the surrogate of Algorithm 1.

    Training draws from the multiset that the counts c describe. Since c is not continuous, z is
    added at one step k: its loss gets sum_i z_i l_i / B over all candidates, also those with
    c_i = 0. At z = 0 this is the real run, and z_i = 1 is one more copy of example i in batch k.

    Attributes:
        value: c, whole numbers, at least 0, shape (examples,); ones use every example once.
        injection_step: k.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, Algorithm 1.
    """

    injection_step: int = 0

    @classmethod
    def start(cls, setup: Setup) -> "Counts":
        """Return all candidates once, or a random share of them once."""
        counts = first_subset(setup.settings, setup.num_examples, setup.dtype)
        return cls(counts, injection_step=setup.recipe.injection_step)

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the counts of the chosen iterate."""
        del recipe, before
        return OfExamples(after, "count (uses in an epoch)", whole=True)

    def in_steps(self, before: int, after: int) -> "Counts":
        """Return the counts with k at the same part of a shorter run."""
        return replace(self, injection_step=self.injection_step * after // before)

    def of_first(self, num_examples: int) -> "Counts | None":
        """Return the first counts; None if none of those examples is used."""
        first = self.value[:num_examples]
        return replace(self, value=first) if first.any() else None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.value < 0).any() or (self.value != self.value.round()).any():
            raise ConfigurationError(
                "Counts say how often each example is used, but some are negative or not whole. "
                "Round them, or use ExampleWeights."
            )

    def point(self) -> Tensor:
        """Return z = 0, where the surrogate is the real run."""
        dtype = self.value.dtype if self.value.is_floating_point() else torch.get_default_dtype()
        return torch.zeros(self.value.shape, dtype=dtype, device=self.value.device)

    def project(self, value: Tensor) -> Tensor:
        """Round to whole numbers, at least 0."""
        return value.round().clamp(min=0)

    def enters(self, step: int) -> bool:
        """Say whether ``step`` is k."""
        return step == self.injection_step

    def copies(self) -> Tensor | None:
        """Return c as integers, shape (examples,)."""
        return self.value.round().to(torch.int64)

    def injected(self, z: Tensor, step: int) -> Tensor | None:
        """Return z at step k, shape (examples,)."""
        return z if self.enters(step) else None


def first_subset(config: MetaparametersConfig, num_examples: int, dtype: torch.dtype) -> Tensor:
    """Return the counts that a descent starts from, shape (examples,): 1, or 0 for a random share.

    Args:
        config: ``kept`` is the share that is 1, and ``seed`` draws it.
        num_examples: Training candidates.
        dtype: Number format.
    """
    counts = torch.zeros(num_examples, dtype=dtype)
    drawn = generator(config.seed, "first subset")
    number = max(round(config.kept * num_examples), 1)
    counts[torch.randperm(num_examples, generator=drawn)[:number]] = 1
    return counts


KIND = Counts
