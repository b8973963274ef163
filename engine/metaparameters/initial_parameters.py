"""Initial parameters as metaparameters."""

from dataclasses import dataclass

from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.charts import Chart, Histogram
from engine.metaparameters.setup import Setup
from engine.recipes.descent import DescentRecipe


@dataclass(frozen=True, eq=False, repr=False)
class InitialParameters(Metaparameter):
    """The parameters that training starts from.

    Attributes:
        value: All trainable parameters in the order of the routine's layout, shape (params,).
    """

    @classmethod
    def start(cls, setup: Setup) -> "InitialParameters":
        """Return the model's own start."""
        return cls(setup.parameters())

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return how far each parameter moved."""
        return Histogram(after - before, "change of an initial parameter", "parameters")

    def of_first(self, num_examples: int) -> "InitialParameters":
        """Return the kind as it is: it holds nothing of examples."""
        return self

    def enters(self, step: int) -> bool:
        """Say that no step reads z: only s_0 does."""
        return False

    @property
    def shapes_start(self) -> bool:
        """Say that s_0 depends on z."""
        return True

    def initial(self, z: Tensor, params: Tensor) -> Tensor:
        """Return z."""
        if z.shape != params.shape:
            raise ConfigurationError(
                f"The initial parameters have shape {tuple(z.shape)}, but the model has "
                f"{len(params)} trainable ones. Flatten them with routine.layout."
            )
        return z.to(params.device)


KIND = InitialParameters
