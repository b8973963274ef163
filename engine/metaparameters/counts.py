"""Counts of examples as metaparameters: how often each one is in the training data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter


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
