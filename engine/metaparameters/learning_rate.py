"""The learning rate as metaparameters: key points of a schedule."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.charts import Chart, Line, Lines
from engine.metaparameters.setup import Setup
from engine.recipes.descent import DescentRecipe
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

    @classmethod
    def start(cls, setup: Setup) -> "LearningRatePoints":
        """Return the recipe's learning rate at every key point."""
        flat = math.log(setup.recipe.training.learning_rate)
        points = torch.full((setup.settings.num_key_points,), flat, dtype=setup.dtype)
        return cls(points, num_steps=setup.recipe.training.num_steps)

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the rate of each step, with the key points."""
        old, new = (
            cls(points.to(torch.float64), num_steps=recipe.training.num_steps).line()
            for points in (before, after)
        )
        return Lines(old, new, "learning rate (per step)")

    def line(self) -> Line:
        """Return the rate of each step, and the key points among them."""
        z, last = self.value, self.num_steps - 1
        rates = [float(self.hyperparameters(z, t)["learning_rate"]) for t in range(self.num_steps)]
        keys = torch.linspace(0, last, len(z), dtype=torch.float64)
        return Line(rates, list(zip(keys.tolist(), z.exp().tolist(), strict=True)))

    def of_first(self, num_examples: int) -> "LearningRatePoints":
        """Return the kind as it is: it holds nothing of examples."""
        return self

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run of another length."""
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


KIND = LearningRatePoints
