"""Settings of the optimizer. This module does not know torch.

An optimizer is described here, by its name and by which settings it reads; how it is computed is in
``engine.routine.optimizers``, where the function of that name is registered.
"""

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from engine.recipes.settings import Settings, refuse_unread


class OptimizerName(StrEnum):
    """Differentiable inner optimizers."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"
    RMSPROP = "rmsprop"
    MUON = "muon"


class ParameterGroup(Settings):
    """Parameters that are trained by settings of their own, chosen by a rule on their names."""

    names: tuple[str, ...] = ("*",)
    """Patterns of full names, as of files: *.bias, encoder.layers.0.*, *norm*."""

    max_axes: Annotated[int | None, Field(ge=0)] = None
    """Only parameters of at most so many axes: 1 for biases and the scales of normalizations."""

    rate: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the learning rate; 0 leaves the parameters as they are."""

    weight_decay: Annotated[float | None, Field(ge=0)] = None
    """Weight decay; empty means the optimizer's."""

    momentum: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Momentum; empty means the optimizer's."""

    beta1: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Decay of Adam's first moment; empty means the optimizer's."""

    beta2: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Decay of Adam's second moment; empty means the optimizer's."""

    @field_validator("names", mode="before")
    @classmethod
    def _one_pattern_is_a_list_of_one(cls, value: Any) -> Any:  # noqa: ANN401 (any input)
        return (value,) if isinstance(value, str) else value

    def has(self, name: str, shape: tuple[int, ...]) -> bool:
        """Say whether a parameter of that name and shape fits the group's rule."""
        few = self.max_axes is None or len(shape) <= self.max_axes
        return few and any(fnmatchcase(name, pattern) for pattern in self.names)

    def own(self) -> dict[str, float]:
        """Return the optimizer's settings that the group has of its own, by name."""
        names = ("weight_decay", "momentum", "beta1", "beta2")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class OptimizerSettings(Settings):
    """Inner optimizer; what does not belong to the chosen one must keep its default."""

    name: OptimizerName = OptimizerName.SGD
    """Which of the optimizers that ship moves the parameters in a training step."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD, RMSprop and Muon."""

    nesterov: bool = False
    """Nesterov's momentum, for SGD and Muon."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty (SGD, Adam, RMSprop) or decoupled decay (AdamW, Muon), per unit of learning rate.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of Adam's first moment; for Muon, of the AdamW that moves the rest."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of Adam's second moment; for Muon, of the AdamW that moves the rest."""

    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of RMSprop's second moment."""

    centered: bool = False
    """Divide by the standard deviation in RMSprop, not by the root of the second moment."""

    eps: Annotated[float, Field(ge=0)] = 1e-8
    """Added outside the square root of Adam and RMSprop."""

    eps_root: Annotated[float, Field(ge=0)] = 1e-8
    """Added inside that square root; 0 makes metagradients infinite where a gradient is 0."""

    rest: tuple[str, ...] = ()
    """Patterns of names of matrices that Muon leaves to AdamW, besides what is no matrix: those of
    embeddings and of the last layer, as a rule."""

    rest_rate: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the learning rate of what Muon leaves to AdamW."""

    groups: tuple[ParameterGroup, ...] = ()
    """Parameters that are trained by settings of their own; the first group that fits counts."""

    clip_norm: Annotated[float | None, Field(gt=0)] = None
    """Largest norm of a step's gradient, which is scaled down to it; empty means any."""

    clip_value: Annotated[float | None, Field(gt=0)] = None
    """Largest size of each number of a step's gradient; empty means any."""

    ema_decay: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Decay of the average of the weights that is evaluated; empty means the weights themselves.
    """

    ema_start: Annotated[int, Field(ge=0)] = 0
    """First step whose weights count in that average."""

    @model_validator(mode="after")
    def _settings_are_read(self) -> "OptimizerSettings":
        refuse_unread(self, "name", READS, "optimizer.")
        unread = frozenset[str]().union(*READS.values()) - READS[self.name]
        for group in self.groups:
            for setting, value in group.own().items():
                if setting in unread:
                    raise ValueError(
                        f"A group of optimizer.groups has {setting}={value:g}, but optimizer.name "
                        f"is {self.name.value}, which does not read it. Remove it, or choose "
                        "another optimizer.name."
                    )
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(
                f"optimizer.clip_norm is {self.clip_norm:g} and optimizer.clip_value "
                f"{self.clip_value:g}, but it is not defined which of them comes first. Use one of "
                "them."
            )
        if self.ema_start and self.ema_decay is None:
            raise ValueError(
                f"optimizer.ema_start is {self.ema_start}, but optimizer.ema_decay is empty, so "
                "there is no average. Give a decay, e.g. 0.999, or leave it out."
            )
        return self


_ADAM = frozenset({"beta1", "beta2", "eps", "eps_root"})

READS: dict[OptimizerName, frozenset[str]] = {
    OptimizerName.SGD: frozenset({"momentum", "nesterov"}),
    OptimizerName.ADAM: _ADAM,
    OptimizerName.ADAMW: _ADAM,
    OptimizerName.RMSPROP: frozenset({"momentum", "alpha", "centered", "eps", "eps_root"}),
    OptimizerName.MUON: _ADAM | {"momentum", "nesterov", "rest", "rest_rate"},
}
"""Settings that an optimizer reads; those that none names here are read by each."""
