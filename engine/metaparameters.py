"""Kinds of metaparameters: what z is, where it enters a step, and where it may lie.

A kind holds its current value and answers for one step: which weights do examples get, which
examples are injected, which hyperparameters change. Everything that z does to a run goes through
these answers, so a kind that enters nowhere by mistake is an error, never a zero gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from engine.determinism import refuse_meta
from engine.errors import ConfigurationError
from engine.optim import Hyperparameters
from engine.types import Batch


@dataclass(frozen=True, eq=False)
class Metaparameter:
    """Base of all kinds; by itself it enters nowhere.

    Attributes:
        value: The set-up as people speak of it, e.g. how often each example is used.
    """

    value: Tensor

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

    def with_value(self, value: Tensor) -> "Metaparameter":
        """Return the same kind at another value, moved into its feasible set."""
        return replace(self, value=self.project(value))

    def point(self) -> Tensor:
        """Return z where the metagradient is taken; floating point, on the CPU."""
        return self.value

    def project(self, value: Tensor) -> Tensor:
        """Return the closest feasible value."""
        return value

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run that this kind, known there as ``name``, does not fit.

        Raises:
            ConfigurationError: If there is not one value for each example, where that is needed.
        """
        del num_steps
        per_example = self.copies() is not None or type(self).weights is not Metaparameter.weights
        if per_example and type(self).check_fits is Metaparameter.check_fits:
            if self.value.ndim != 1:
                raise ConfigurationError(
                    f"Metaparameter {name!r} has shape {tuple(self.value.shape)}, but there is one "
                    f"number for each example. Use value.reshape(-1), of length {num_examples}."
                )
            _check_one_each(name, len(self.value), num_examples)

    def enters(self, step: int) -> bool:
        """Say whether ``step`` reads z."""
        del step
        return True

    def copies(self) -> Tensor | None:
        """Return how often each example stands in an epoch, or None for once each."""
        return None

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return factors on the losses of a batch, shape (batch,), or None."""
        del z, indices
        return None

    def injected(self, z: Tensor, step: int) -> Tensor | None:
        """Return weights of all examples, added to the batch of ``step``, or None."""
        del z, step
        return None

    def hyperparameters(self, z: Tensor, step: int) -> Hyperparameters:
        """Return the hyperparameters of ``step`` that z sets."""
        del z, step
        return {}

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return keyword arguments of the loss of the examples ``indices``."""
        del z, indices
        return {}

    def batch(self, z: Tensor, batch: Batch, indices: Tensor) -> Batch:
        """Return the batch of the examples ``indices`` with z's share in it."""
        del z, indices
        return batch

    @property
    def shapes_start(self) -> bool:
        """Say whether the initial parameters depend on z."""
        return False

    def initial(self, z: Tensor, params: Tensor) -> Tensor:
        """Return the initial parameters, given those of the model, shape (params,)."""
        del z
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


def _whole(what: str, given: Any) -> Tensor:  # noqa: ANN401 (whatever was handed in)
    """Return numbers of groups or examples."""
    numbers = as_column(what, given)
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.dtype is torch.bool:
        raise ConfigurationError(
            f"{what} are {numbers.dtype} of shape {tuple(numbers.shape)}, but they are numbers in "
            "a row. Use whole numbers from 0, shape (n,)."
        )
    return numbers.to(torch.int64)


def _check_one_each(name: str, found: int, num_examples: int) -> None:
    if found != num_examples:
        raise ConfigurationError(
            f"Metaparameter {name!r} has {found} values for {num_examples} examples. "
            "Give one value for each."
        )


@dataclass(frozen=True, eq=False)
class ExampleWeights(Metaparameter):
    """One weight for each example: the loss of step t is sum_i w_i l_i / B over its batch.

    The denominator is the batch size, which does not depend on w.

    Attributes:
        value: w, dimensionless, at least 0, shape (examples,); ones give plain training.
    """

    def project(self, value: Tensor) -> Tensor:
        """Clamp to non-negative weights."""
        return value.clamp(min=0)

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return the weights of a batch, shape (batch,)."""
        return z[indices.to(z.device)]


@dataclass(frozen=True, eq=False)
class Counts(Metaparameter):
    """How often each example is used, by the surrogate of Algorithm 1.

    Training draws from the multiset that the counts c describe. Since c is not continuous, z is
    added at one step k: its loss gets sum_i z_i l_i / B over all candidates, also those with
    c_i = 0. At z = 0 this is the real run, and z_i = 1 is one more copy of example i in batch k.

    Attributes:
        value: c, whole numbers, at least 0, shape (examples,); ones use every example once.
        injection_step: k.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, Algorithm 1.
    """

    injection_step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.value < 0).any() or (self.value != self.value.round()).any():
            raise ConfigurationError(
                "Counts say how often each example is used, but some are negative or not whole. "
                "Round them, or use ExampleWeights."
            )

    def point(self) -> Tensor:
        """Return z = 0, where the surrogate is the real run."""
        dtype = self.value.dtype if self.value.is_floating_point() else torch.get_default_dtype()
        return torch.zeros(self.value.shape, dtype=dtype, device=self.value.device)

    def project(self, value: Tensor) -> Tensor:
        """Round to whole numbers, at least 0."""
        return value.round().clamp(min=0)

    def enters(self, step: int) -> bool:
        """Say whether ``step`` is k."""
        return step == self.injection_step

    def copies(self) -> Tensor | None:
        """Return c as integers, shape (examples,)."""
        return self.value.round().to(torch.int64)

    def injected(self, z: Tensor, step: int) -> Tensor | None:
        """Return z at step k, shape (examples,)."""
        return z if self.enters(step) else None


@dataclass(frozen=True, eq=False)
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
        object.__setattr__(self, "groups", _whole("The groups of GroupWeights", self.groups))
        counts = torch.bincount(self.groups, minlength=len(self.value))
        if len(counts) != len(self.value) or (counts == 0).any():
            raise ConfigurationError(
                f"There are {len(self.value)} group weights, but the groups have {counts.tolist()} "
                "examples. Number the groups from 0, each with at least one example."
            )

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run with another number of examples."""
        del num_steps
        _check_one_each(name, len(self.groups), num_examples)

    def proportional(self) -> Tensor:
        """Return the value at which every example weighs 1, shape (groups,)."""
        counts = torch.bincount(self.groups, minlength=len(self.value)).to(self.value)
        return (counts / counts.sum()).log()

    def weights(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """Return the weights of a batch, shape (batch,)."""
        group = self.groups[indices.to(self.groups.device)].to(z.device)
        return (torch.log_softmax(z, 0) - self.proportional().to(z))[group].exp()


@dataclass(frozen=True, eq=False)
class TokenWeights(Metaparameter):
    """One weight for each token of each example, handed to the loss as ``token_weights``.

    Attributes:
        value: Weights, at least 0, shape (examples, tokens); ones give plain training.
    """

    def check_fits(self, name: str, num_examples: int, num_steps: int) -> None:
        """Refuse a run with another number of examples."""
        del num_steps
        _check_one_each(name, len(self.value), num_examples)

    def project(self, value: Tensor) -> Tensor:
        """Clamp to non-negative weights."""
        return value.clamp(min=0)

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return ``token_weights`` of a batch, shape (batch, tokens)."""
        return {"token_weights": z[indices.to(z.device)]}


@dataclass(frozen=True, eq=False)
class Inputs(Metaparameter):
    """Inputs of chosen examples: pixels of images, or embeddings. Their labels stay.

    Attributes:
        value: The inputs, shape (chosen, ...).
        chosen: Which examples they replace, shape (chosen,), no example twice.
        num_examples: n, training candidates.
        bounds: Smallest and largest value allowed, e.g. of a pixel; None allows all.
        column: Which tensor of the examples holds the inputs.
    """

    chosen: Tensor = torch.empty(0, dtype=torch.int64)
    num_examples: int = 0
    bounds: tuple[float, float] | None = None
    column: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "chosen", _whole("The chosen examples of Inputs", self.chosen))
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
        del num_steps
        if self.num_examples != num_examples:
            raise ConfigurationError(
                f"Metaparameter {name!r} chooses among {self.num_examples} examples, but the run "
                f"has {num_examples}. Use Inputs(..., num_examples={num_examples})."
            )

    def project(self, value: Tensor) -> Tensor:
        """Clamp to the allowed values."""
        return value if self.bounds is None else value.clamp(*self.bounds)

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


@dataclass(frozen=True, eq=False)
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
