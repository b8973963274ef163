"""Counts of examples as metaparameters: how often each one is in the training data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.charts import Chart, OfExamples
from engine.metaparameters.setup import Setup
from engine.numerics.determinism import generator
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import MetaparametersSettings, default_injection_step


@dataclass(frozen=True, eq=False, repr=False)
class Counts(Metaparameter):
    """How often each example is used, by the surrogate of Algorithm 1.

    Training draws from the multiset that the counts c describe. Since c is not continuous, z is
    added at one step k: its loss gets sum_i z_i l_i / B over all candidates, also those with
    c_i = 0. At z = 0 this is the real run, and z_i = 1 is one more copy of example i in batch k.

    The sign of one step's derivative may mislead: with momentum it swings with k, and far from the
    end it is the opposite of its neighbours' (``engine.check`` compares them). With several steps
    the same z enters each, and the metagradient is the sum of theirs, in one sweep.

    Attributes:
        value: c, whole numbers, at least 0, shape (examples,); ones use every example once.
        injection_step: k; 90 % of the run if neither this nor ``injection_steps`` is given.
        injection_steps: Several k in place of one, each once.

    Cost:
        The losses of all examples, forward and backward, at each k.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, Algorithm 1.
    """

    injection_step: int | None = None
    injection_steps: Sequence[int] = ()

    @classmethod
    def start(cls, setup: Setup) -> "Counts":
        """Return all candidates once, or a random share of them once."""
        counts = first_subset(setup.settings, setup.num_examples, setup.dtype)
        return cls(counts, injection_steps=setup.recipe.injection_steps)

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the counts of the chosen iterate."""
        return OfExamples(after, "count (uses in an epoch)", whole=True)

    def in_steps(self, before: int, after: int) -> "Counts":
        """Return the counts with each k at the same part of a shorter run."""
        steps = tuple(sorted({step * after // before for step in self.steps}))
        return replace(self, injection_step=None, injection_steps=steps)

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
        if self.injection_step is not None and len(self.injection_steps):
            raise ConfigurationError(
                f"Counts have injection_step={self.injection_step} and injection_steps with "
                f"{len(self.injection_steps)} steps. Use one of the two."
            )
        steps = tuple(sorted(int(step) for step in self.injection_steps))
        if len(set(steps)) < len(steps) or any(step < 0 for step in steps):
            raise ConfigurationError(
                f"The injection_steps of Counts are {', '.join(map(str, steps))}, of which one is "
                "negative or named twice. Name steps from 0, each once."
            )
        object.__setattr__(self, "injection_steps", steps)

    @property
    def steps(self) -> tuple[int, ...]:
        """All k in order; none before the counts are fitted to a run's length."""
        return self.injection_steps or (  # pyright: ignore[reportReturnType] (a tuple once made)
            () if self.injection_step is None else (self.injection_step,)
        )

    def fitted(self, num_steps: int) -> "Counts":
        """Return the counts with k filled in for a run of so many steps.

        Raises:
            ConfigurationError: If one of several k lies beyond the run.
        """
        beyond = [step for step in self.injection_steps if step >= num_steps]
        if beyond:
            raise ConfigurationError(
                f"The injection_steps of Counts name step {beyond[0]}, but the run has "
                f"{num_steps} steps. Use steps below num_steps."
            )
        if self.steps:
            return self
        return replace(self, injection_step=default_injection_step(num_steps))

    def point(self) -> Tensor:
        """Return z = 0, where the surrogate is the real run."""
        dtype = self.value.dtype if self.value.is_floating_point() else torch.get_default_dtype()
        return torch.zeros(self.value.shape, dtype=dtype, device=self.value.device)

    def project(self, value: Tensor) -> Tensor:
        """Round to whole numbers, at least 0."""
        return value.round().clamp(min=0)

    def enters(self, step: int) -> bool:
        """Say whether ``step`` is a k."""
        return step in self.steps

    def copies(self) -> Tensor | None:
        """Return c as integers, shape (examples,)."""
        return self.value.round().to(torch.int64)

    def injected(self, z: Tensor, step: int) -> Tensor | None:
        """Return z at a step k, shape (examples,)."""
        return z if self.enters(step) else None


def first_subset(settings: MetaparametersSettings, num_examples: int, dtype: torch.dtype) -> Tensor:
    """Return the counts that a descent starts from, shape (examples,): 1, or 0 for a random share.

    Args:
        settings: ``kept`` is the share that is 1, and ``seed`` draws it.
        num_examples: Training candidates.
        dtype: Number format.
    """
    counts = torch.zeros(num_examples, dtype=dtype)
    drawn = generator(settings.seed, "first subset")
    number = max(round(settings.kept * num_examples), 1)
    counts[torch.randperm(num_examples, generator=drawn)[:number]] = 1
    return counts


KIND = Counts
