"""Kinds of metaparameters: what z is, where it enters a step, and where it may lie.

A kind holds its current value and answers for one step: which weights do examples get, which
examples are injected, which hyperparameters change. Everything that z does to a run goes through
these answers, so a kind that enters nowhere by mistake is an error, never a zero gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.charts import Chart, Histogram
from engine.metaparameters.setup import Setup
from engine.numerics.determinism import refuse_meta
from engine.recipes.descent import DescentRecipe
from engine.shown.line import shown_fields, shown_tensor
from engine.types import Batch, Hyperparameters


@dataclass(frozen=True, eq=False, repr=False)
class Metaparameter:
    """Base of all kinds; by itself it enters nowhere.

    Attributes:
        value: The set-up as people speak of it, e.g. how often each example is used.
    """

    value: Tensor

    @classmethod
    def start(cls, setup: Setup) -> "Metaparameter":
        """Return the kind at the value from which a descent starts; for kinds that recipes name.

        Args:
            setup: The recipe, and what its problem has to say.
        """
        raise NotImplementedError(f"{cls.__name__} is no kind that a recipe can name.")

    @classmethod
    def chart(cls, recipe: DescentRecipe, before: Tensor, after: Tensor) -> Chart:
        """Return the chart of this metaparameter in the report of a descent.

        Args:
            recipe: Settings of the run.
            before: z_0, shaped like ``value``.
            after: z at the chosen iterate, of the same shape.
        """
        return Histogram(after - before, "change of a value", "values")

    def __post_init__(self) -> None:
        kind, value = type(self), as_column(type(self).__name__, self.value)
        object.__setattr__(self, "value", value)
        # A kind with a point of its own may hold whole numbers, as counts are.
        if kind.point is Metaparameter.point and not value.is_floating_point():
            raise ConfigurationError(
                f"{kind.__name__} holds {value.dtype}, by which nothing can be differentiated. Use "
                "floating point, e.g. value.double()."
            )
        if value.is_floating_point() and torch.finfo(value.dtype).bits < 32:
            raise ConfigurationError(
                f"{kind.__name__} holds {value.dtype}, in which the digits of a metagradient, and "
                "its signs, are noise. Use value.float() or value.double()."
            )
        refuse_meta()
        if not torch.isfinite(value.to(torch.float64)).all():
            raise ConfigurationError(
                f"A metaparameter of kind {kind.__name__} holds a value that is not finite. If a "
                "step of yours led there, it was too long.",
                settings=("outer.step_size",),
            )

    def __repr__(self) -> str:
        more = shown_fields(self, ("value",))
        return f"{type(self).__name__}({shown_tensor(self.value)}{more and f'; {more}'})"

    def with_value(self, value: Tensor) -> "Metaparameter":
        """Return the same kind at another value of that shape, moved into its feasible set."""
        return replace(self, value=self.project(value))

    def fitted(self, num_steps: int) -> "Metaparameter":
        """Return the same kind with what it leaves open filled in for a run of so many steps."""
        return self

    def point(self) -> Tensor:
        """Return z where the metagradient is taken: floating point, on the CPU, as ``value``."""
        return self.value

    def project(self, value: Tensor) -> Tensor:
        """Return the closest feasible value, of the same shape."""
        return value

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run that this kind, known there as ``name``, does not fit.

        Raises:
            ConfigurationError: If there is not one value for each example, where that is needed.
        """
        per_example = self.copies() is not None or type(self).weights is not Metaparameter.weights
        if per_example and type(self).check_fits is Metaparameter.check_fits:
            if self.value.ndim != 1:
                raise ConfigurationError(
                    f"Metaparameter {name!r} has shape {tuple(self.value.shape)}, but there is one "
                    f"number for each example. Use value.reshape(-1), of length {num_examples}."
                )
            check_one_each(name, len(self.value), num_examples)

    def in_steps(self, before: int, after: int) -> "Metaparameter":
        """Return the same kind for a shorter run, on which checks are made.

        A field ``num_steps`` becomes the shorter run's.

        Args:
            before: Steps of the run.
            after: Steps of the shorter one.
        """
        has_steps = any(each.name == "num_steps" for each in fields(self))
        return replace(self, **{"num_steps": after}) if has_steps else self

    def of_first(self, num_examples: int) -> "Metaparameter | None":
        """Return the same kind for the first examples, for checks; None if it needs all of them.

        It is asked only where a class says it for itself, because a subclass may hold more that
        belongs to each example.
        """
        return None

    def computed(self) -> Tensor | None:
        """Return numbers that a library computed when the kind was made, such as clusters, or None.

        Another version of the library may find others, so it counts in the names of stages.
        """
        return None

    def enters(self, step: int) -> bool:
        """Say whether ``step`` reads z."""
        return True

    def copies(self) -> Tensor | None:
        """Return how often each example stands in an epoch, shape (examples,), or None for once."""
        return None

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return factors on the losses of a batch, shape (batch,) as ``indices`` has, or None."""
        return None

    def injected(self, z: Tensor, step: int) -> Tensor | None:
        """Return weights of all examples, added to the batch of ``step``, or None.

        Args:
            z: Shaped like ``point()``.
            step: t.

        Returns:
            Shape (examples,); those of ``candidates`` are read.
        """
        return None

    def candidates(self, num_examples: int) -> Tensor:
        """Return the positions of the examples that are injected, shape (injected,), in order."""
        return torch.arange(num_examples, device="cpu")

    def hyperparameters(self, z: Tensor, step: int) -> Hyperparameters:
        """Return the hyperparameters of ``step`` that z sets, each a scalar tensor, by name."""
        return {}

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return keyword arguments of the loss of the examples ``indices``, shape (batch,)."""
        return {}

    def batch(self, z: Tensor, batch: Batch, indices: Tensor) -> Batch:
        """Return the batch of the examples ``indices``, shape (batch,), with z's share in it."""
        return batch

    @property
    def shapes_start(self) -> bool:
        """Say whether the initial parameters depend on z."""
        return False

    def initial(self, z: Tensor, params: Tensor) -> Tensor:
        """Return the initial parameters, given those of the model, shape (params,)."""
        return params


def constant(tensor: Tensor) -> Tensor:
    """Return a tensor as a constant, also one that was made in inference mode."""
    if not tensor.is_inference():
        return tensor.detach()
    with torch.inference_mode(mode=False):
        return tensor.clone()


def as_column(what: str, given: Any) -> Tensor:  # noqa: ANN401 (whatever was handed in)
    """Return numbers as a constant tensor, also those of numpy, a list or a parameter.

    Raises:
        ConfigurationError: If there are none.
    """
    try:
        tensor = constant(torch.as_tensor(given))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"{what} is given a {type(given).__name__}. Give it a tensor of numbers."
        ) from error
    if tensor.ndim == 0:
        raise ConfigurationError(
            f"{what} is given one number. Give it a tensor, e.g. torch.full((n,), {tensor.item()})."
        )
    return tensor


def whole_numbers(what: str, given: Any) -> Tensor:  # noqa: ANN401 (whatever was handed in)
    """Return numbers of groups or examples."""
    numbers = as_column(what, given)
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.dtype is torch.bool:
        raise ConfigurationError(
            f"{what} are {numbers.dtype} of shape {tuple(numbers.shape)}, but they are numbers in "
            "a row. Use whole numbers from 0, shape (n,)."
        )
    return numbers.to(torch.int64)


def check_one_each(name: str, found: int, num_examples: int) -> None:
    """Refuse a kind that has not one number for each example."""
    if found != num_examples:
        raise ConfigurationError(
            f"Metaparameter {name!r} has {found} values for {num_examples} examples. "
            "Give one value for each."
        )
