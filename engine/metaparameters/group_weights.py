"""Weights of groups of examples as metaparameters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter, check_one_each, whole_numbers
from engine.metaparameters.charts import Bars, Chart
from engine.metaparameters.setup import Setup
from engine.recipes.descent import DescentRecipe


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
        object.__setattr__(self, "groups", whole_numbers("The groups of GroupWeights", self.groups))
        counts = torch.bincount(self.groups, minlength=len(self.value))
        if len(counts) != len(self.value) or (counts == 0).any():
            raise ConfigurationError(
                f"There are {len(self.value)} group weights, but the groups have {counts.tolist()} "
                "examples. Number the groups from 0, each with at least one example."
            )

    @classmethod
    def start(cls, setup: Setup) -> "GroupWeights":
        """Return the mixture in which every example weighs 1."""
        groups, number = setup.groups()
        kind = cls(torch.zeros(number, dtype=setup.dtype), groups)
        return cls(kind.proportional(), groups)

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the share of each group in the mixture."""
        old, new = (torch.softmax(logits.to(torch.float64), 0) for logits in (before, after))
        return Bars(old, new, "group", "share of the training loss")

    def computed(self) -> Tensor:
        """Return the groups, shape (examples,), which may be clusters."""
        return self.groups

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run with another number of examples."""
        check_one_each(name, len(self.groups), num_examples)

    def proportional(self) -> Tensor:
        """Return the value at which every example weighs 1, shape (groups,)."""
        counts = torch.bincount(self.groups, minlength=len(self.value)).to(self.value)
        return (counts / counts.sum()).log()

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return the weights of a batch, shape (batch,)."""
        group = self.groups[indices.to(self.groups.device)].to(z.device)
        return (torch.log_softmax(z, 0) - self.proportional().to(z))[group].exp()


KIND = GroupWeights
