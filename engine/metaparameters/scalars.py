"""Kinds of metaparameters that set hyperparameters: the learning rate of each step, and scalars."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.charts import Chart, Panels
from engine.metaparameters.setup import Setup
from engine.recipes.descent import DescentRecipe
from engine.types import Hyperparameters

_POSITIVE = ("weight_decay", "eps", "eps_root", "clip_norm", "clip_value")
_FRACTIONS = ("momentum", "beta1", "beta2", "alpha", "ema_decay", "label_smoothing")


@dataclass(frozen=True, eq=False, repr=False)
class Scalars(Metaparameter):
    """Hyperparameters that are one number for the whole run; make it with ``Scalars.of``.

    Where a number must be positive, z is its logarithm; where it lies between 0 and 1, its logit.
    So every z is feasible, and a step of 0.1 changes the number, or its distance from 1, by 10 %.

    Attributes:
        value: Transformed numbers, shape (names,).
        names: weight_decay, eps, eps_root, clip_norm or clip_value (positive); momentum, beta1,
            beta2, alpha or ema_decay (between 0 and 1): read by the optimizer. label_smoothing
            (between 0 and 1): handed to the loss.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def start(cls, setup: Setup) -> "Scalars":
        """Return the numbers that the recipe names, as its optimizer and its loss have them."""
        recipe = setup.recipe
        names = [name.value for name in setup.settings.scalars]
        sources = dict.fromkeys(names, recipe.optimizer) | {"label_smoothing": recipe.training}
        return cls.of(setup.dtype, **{name: getattr(sources[name], name) for name in names})

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the numbers themselves."""
        names = tuple(name.value for name in recipe.metaparameters.scalars)
        old, new = (
            {name: float(each) for name, each in cls(z, names).numbers(z).items()}
            for z in (before.to(torch.float64), after.to(torch.float64))
        )
        return Panels(old, new)

    def of_first(self, num_examples: int) -> "Scalars":
        """Return the kind as it is: it holds nothing of examples."""
        return self

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.names) - {*_POSITIVE, *_FRACTIONS})
        if unknown or len(set(self.names)) != len(self.value) or not self.names:
            raise ConfigurationError(
                f"The scalars {list(self.names)} have {len(self.value)} values. Name each of "
                f"{', '.join((*_POSITIVE, *_FRACTIONS))} at most once, with one value for each."
            )

    @classmethod
    def of(cls, dtype: torch.dtype = torch.float32, **numbers: float) -> "Scalars":
        """Make the kind from the numbers themselves, e.g. ``Scalars.of(momentum=0.9)``.

        Raises:
            ConfigurationError: If a number is not inside its range.
        """
        for name, number in numbers.items():
            limit = math.inf if name in _POSITIVE else 1.0
            if not 0 < number < limit:
                raise ConfigurationError(
                    f"{name} starts at {number}, where its logarithm or logit does not exist. "
                    f"Start above 0 and below {limit:g}."
                )
        drawn = torch.tensor(list(numbers.values()), dtype=dtype)
        positive = torch.tensor([name in _POSITIVE for name in numbers])
        value = torch.where(positive, drawn.log(), torch.logit(drawn.clamp(max=1 - 1e-7)))
        return cls(value, tuple(numbers))

    def numbers(self, z: Tensor) -> dict[str, Tensor]:
        """Return the numbers themselves, scalars by name."""
        return {
            name: z[i].exp() if name in _POSITIVE else torch.sigmoid(z[i])
            for i, name in enumerate(self.names)
        }

    def hyperparameters(self, z: Tensor, step: int) -> Hyperparameters:
        """Return those that the optimizer reads, scalars."""
        found = self.numbers(z)
        return {name: number for name, number in found.items() if name != "label_smoothing"}

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return ``label_smoothing``, a scalar, if it is one of the names."""
        found = self.numbers(z)
        return {name: number for name, number in found.items() if name == "label_smoothing"}


KIND = Scalars
