"""Initial parameters as metaparameters."""

from dataclasses import dataclass

from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter


@dataclass(frozen=True, eq=False, repr=False)
class InitialParameters(Metaparameter):
    """The parameters that training starts from.

    Attributes:
        value: All trainable parameters in the order of the routine's layout, shape (params,).
    """

    def enters(self, step: int) -> bool:
        """Say that no step reads z: only s_0 does."""
        del step
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
