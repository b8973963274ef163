"""Input of a kind's ``start``: the settings of a recipe, and the problem's part in z."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import MetaparametersSettings

if TYPE_CHECKING:
    from engine.metaparameters.base import Metaparameter


@dataclass(frozen=True)
class Setup:
    """What the start of a descent is made from; what is costly is a function.

    Attributes:
        recipe: The settings.
        num_examples: Training candidates.
        inputs: Maps positions of candidates to their inputs, shape (positions, ...), and refuses
            inputs that cannot be moved by small steps.
        bounds: Smallest and largest value of an input, of all its elements or of each; None where
            there is no such limit.
        shifts: Returns zeros in the shape of an embedded input, and the largest element that a
            shift of it may have; None where inputs are moved as they are.
        groups: Returns the group of each candidate, integers from 0, shape (examples,), and the
            number of groups, as ``metaparameters.groups`` asks for them.
        parameters: Returns the initial parameters that are trained as one vector on the CPU.
        own: Returns the problem's own metaparameter that ``metaparameters.own`` names.
    """

    recipe: DescentRecipe
    num_examples: int
    inputs: Callable[[Tensor], Tensor]
    bounds: tuple[float, float] | tuple[Tensor, Tensor] | None
    shifts: Callable[[], tuple[Tensor, float]] | None
    groups: Callable[[], tuple[Tensor, int]]
    parameters: Callable[[], Tensor]
    own: Callable[[], "Metaparameter"]

    @property
    def settings(self) -> MetaparametersSettings:
        """The recipe's group ``metaparameters``."""
        return self.recipe.metaparameters

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the run, and so of z."""
        return getattr(torch, self.recipe.training.dtype.value)
