"""The learning rate as metaparameters: key points of a schedule."""

import math
from dataclasses import dataclass

from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.types import Hyperparameters


@dataclass(frozen=True, eq=False, repr=False)
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

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run of another length."""
        del num_examples
        if self.num_steps != num_steps:
            raise ConfigurationError(
                f"Metaparameter {name!r} spreads its key points over {self.num_steps} steps, but "
                f"the run has {num_steps}. Use LearningRatePoints(..., num_steps={num_steps})."
            )

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
