"""Kinds of metaparameters: what z is, where it enters a step, and where it may lie.

A kind holds its current value and answers for one step: which weights do examples get, which
examples are injected, which hyperparameters change. Everything that z does to a run goes through
these answers, so a kind that enters nowhere by mistake is an error, never a zero gradient.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.optim import Hyperparameters


@dataclass(frozen=True, eq=False)
class Metaparameter:
    """Base of all kinds; by itself it enters nowhere.

    Attributes:
        value: The set-up as people speak of it, e.g. how often each example is used.
    """

    value: Tensor

    def __post_init__(self) -> None:
        if not torch.isfinite(self.value.to(torch.float64)).all():
            raise ConfigurationError(
                f"A metaparameter of kind {type(self).__name__} holds a value that is not finite. "
                "Look at outer.step_size: a step too long is the usual cause."
            )

    def with_value(self, value: Tensor) -> "Metaparameter":
        """Return the same kind at another value, moved into its feasible set."""
        return replace(self, value=self.project(value))

    def point(self) -> Tensor:
        """Return z where the metagradient is taken; floating point, on the CPU."""
        return self.value

    def project(self, value: Tensor) -> Tensor:
        """Return the closest feasible value."""
        return value

    def enters(self, step: int) -> bool:
        """Say whether ``step`` reads z."""
        del step
        return True

    def copies(self) -> Tensor | None:
        """Return how often each example stands in an epoch, or None for once each."""
        return None

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return factors on the losses of a batch, shape (batch,), or None."""
        del z, indices
        return None

    def injected(self, z: Tensor, step: int) -> Tensor | None:
        """Return weights of all examples, added to the batch of ``step``, or None."""
        del z, step
        return None

    def hyperparameters(self, z: Tensor, step: int) -> Hyperparameters:
        """Return the hyperparameters of ``step`` that z sets."""
        del z, step
        return {}


@dataclass(frozen=True, eq=False)
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
        return torch.zeros(self.value.shape, dtype=dtype)

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


@dataclass(frozen=True, eq=False)
class LearningRatePoints(Metaparameter):
    """A learning-rate schedule by key points, evenly spaced over the run.

    The rate at key point j is exp(value_j), and between points it is linear in the step. The
    logarithm keeps rates positive and makes a step of 0.1 mean 10 %, whatever the rate.

    Attributes:
        value: Natural logarithms of the rates, shape (points,).
        num_steps: T.
        bounds: Smallest and largest rate allowed.
    """

    num_steps: int = 1
    bounds: tuple[float, float] = (1e-6, 1e2)

    def project(self, value: Tensor) -> Tensor:
        """Clamp to the allowed rates."""
        return value.clamp(math.log(self.bounds[0]), math.log(self.bounds[1]))

    def hyperparameters(self, z: Tensor, step: int) -> Hyperparameters:
        """Return the learning rate of ``step``, a scalar tensor."""
        last = len(z) - 1
        position = last * step / max(self.num_steps - 1, 1)
        left = min(int(position), max(last - 1, 0))
        share = position - left
        rate = (1 - share) * z[left].exp()
        return {"learning_rate": rate + share * z[left + 1].exp() if share else rate}
