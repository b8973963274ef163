"""Settings of the optimizer."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.recipes.settings import Settings


class OptimizerName(StrEnum):
    """Differentiable inner optimizers."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"


class OptimizerConfig(Settings):
    """Inner optimizer; what does not belong to the chosen one must keep its default."""

    name: OptimizerName = OptimizerName.SGD
    """Optimizer."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""

    nesterov: bool = False
    """Nesterov's momentum, for SGD."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty (SGD, Adam) or decoupled decay (AdamW), per unit of learning rate."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of Adam's first moment."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of Adam's second moment."""

    eps: Annotated[float, Field(ge=0)] = 1e-8
    """Added outside Adam's square root."""

    eps_root: Annotated[float, Field(ge=0)] = 1e-8
    """Added inside Adam's square root; 0 makes metagradients infinite where a gradient is 0."""
