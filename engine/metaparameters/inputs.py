"""Inputs of examples, such as pixels, as metaparameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter, whole_numbers
from engine.metaparameters.charts import Chart, Pictures
from engine.metaparameters.setup import Setup
from engine.numerics.determinism import generator
from engine.recipes.descent import DescentRecipe
from engine.types import Batch


@dataclass(frozen=True, eq=False, repr=False)
class Inputs(Metaparameter):
    """Inputs of chosen examples: pixels of images, or embeddings. Their labels stay.

    Attributes:
        value: The inputs, shape (chosen, ...).
        chosen: Which examples they replace, shape (chosen,), no example twice.
        num_examples: n, training candidates.
        bounds: Smallest and largest value allowed, e.g. of a pixel, as two numbers, or as two
            tensors of the shape of an input; None allows all.
        column: Which tensor of the examples holds the inputs.
    """

    chosen: Tensor = torch.empty(0, dtype=torch.int64)
    num_examples: int = 0
    bounds: tuple[float, float] | tuple[Tensor, Tensor] | None = None
    column: int = 0

    @classmethod
    def start(cls, setup: Setup) -> "Inputs":
        """Return the inputs of a random share of the candidates, as they are.

        Where inputs are embedded by the model, it is shifts of theirs, which are zero.
        """
        drawn = generator(setup.settings.seed, "chosen inputs")
        number = max(round(setup.settings.fraction * setup.num_examples), 1)
        chosen = torch.randperm(setup.num_examples, generator=drawn)[:number].sort().values
        if setup.shifts is None:
            return cls(setup.inputs(chosen), chosen, setup.num_examples, setup.bounds)
        none, reach = setup.shifts()
        value = none.expand(number, *none.shape).clone()
        return InputShifts(value, chosen, setup.num_examples, (-reach, reach))

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the inputs before and after."""
        return Pictures(before, after)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(
            self, "chosen", whole_numbers("The chosen examples of Inputs", self.chosen)
        )
        beyond = (self.chosen < 0) | (self.chosen >= self.num_examples)
        if beyond.any():
            raise ConfigurationError(
                f"Inputs chooses example {int(self.chosen[beyond][0])} of {self.num_examples}. "
                "Number them from 0, and say num_examples=n."
            )
        if len(self.chosen) != len(self.value) or len(self.chosen.unique()) != len(self.chosen):
            raise ConfigurationError(
                f"There are {len(self.value)} inputs for {len(self.chosen)} chosen examples, "
                f"{len(self.chosen.unique())} of them different. Choose each example once."
            )

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run with another number of examples."""
        if self.num_examples != num_examples:
            raise ConfigurationError(
                f"Metaparameter {name!r} chooses among {self.num_examples} examples, but the run "
                f"has {num_examples}. Use Inputs(..., num_examples={num_examples})."
            )

    def project(self, value: Tensor) -> Tensor:
        """Clamp to the allowed values."""
        if self.bounds is None:
            return value
        bounds = (torch.as_tensor(b, dtype=value.dtype, device=value.device) for b in self.bounds)
        low, high = bounds
        return value.clamp(low, high)

    @cached_property
    def _places(self) -> Tensor:
        """Row of ``value`` for each example, or -1, shape (examples,)."""
        places = torch.full((self.num_examples,), -1, dtype=torch.int64, device="cpu")
        places[self.chosen.cpu()] = torch.arange(len(self.chosen), device="cpu")
        return places

    def batch(self, z: Tensor, batch: Batch, indices: Tensor) -> Batch:
        """Return the batch with the chosen examples' inputs replaced."""
        column = batch[self.column]
        place = self._places[indices.cpu()].to(z.device)
        is_chosen = (place >= 0).reshape(-1, *[1] * (column.ndim - 1))
        # A batch without a chosen example still depends on z, by zeros: no step is left out.
        replaced = torch.where(is_chosen, z[place.clamp(min=0)], column)
        return (*batch[: self.column], replaced, *batch[self.column + 1 :])


@dataclass(frozen=True, eq=False, repr=False)
class InputShifts(Inputs):
    """What is added to the embedded inputs of chosen examples, handed to the loss.

    Between two tokens there is nothing, so they cannot be moved by small steps; their embeddings
    can. The loss gets ``input_shifts``, shape (batch, tokens, width), zero for all other examples.

    Attributes:
        value: The shifts, shape (chosen, tokens, width); zeros give plain training.
    """

    batch = Metaparameter.batch  # the batch keeps its tokens

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return ``input_shifts`` of a batch, shape (batch, tokens, width)."""
        place = self._places[indices.cpu()].to(z.device)
        is_chosen = (place >= 0).reshape(-1, *[1] * (z.ndim - 1))
        return {"input_shifts": torch.where(is_chosen, z[place.clamp(min=0)], 0.0)}


KIND = Inputs
