"""Definition of an optimizer: pure functions on flat vectors, and optimizers made from others.

``init`` makes the moments, ``update`` maps (state, gradient, hyperparameters, step) to the next
state. Nothing is hidden, in place or detached, so the vector-Jacobian product of an update is
torch's own. Hyperparameters are arguments of every update: each may be a number, a vector with one
number for each parameter, or a tensor that is being differentiated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.routine.idle import UPDATES, USED, hands_on, leaving_out
from engine.routine.layout import Layout
from engine.shown.line import shown_value
from engine.types import Hyperparameters, State

_Value = TypeVar("_Value")

Init = Callable[[Tensor], State]
Update = Callable[[State, Tensor, Hyperparameters, int | Tensor], State]
Recover = Callable[[State, State, Hyperparameters], Tensor]


@dataclass(frozen=True, repr=False)
class Optimizer:
    """An optimizer as a pair of pure functions.

    Attributes:
        name: Name for people and digests.
        hyperparameters: Defaults of what ``update`` reads besides ``learning_rate``: a number, or
            one for each step.
        init: Maps params, shape (params,), to the moments at step 0, flat vectors.
        update: Maps (state, gradient, hyperparameters, step) to the next state. ``state`` holds
            ``params`` and the moments; ``hyperparameters`` holds ``learning_rate`` as well;
            ``step`` counts from 0; in a compiled step it is a scalar tensor, and in a run that
            skips what a step leaves out a vector, how often each number was moved before. Must be
            pure and differentiable in all but ``step``.
        recover: Optional; maps (state, next state, hyperparameters) to the gradient that led from
            one to the other, to rounding. It saves ``forward-over-reverse`` a pass; SGD needs
            none, because its update is linear in the gradient.
        fit: Optional; maps the layout of the parameters and their device to the optimizer for
            them, where it has to know names or shapes. Its ``hyperparameters`` are this one's.
        evaluated: Name of the vector at which the trained model is evaluated.
        rate_factors: Factors on the learning rate that groups of parameters have; None where that
            is not known, as of an optimizer of your own.
    """

    name: str
    hyperparameters: Mapping[str, float | Sequence[float]]
    init: Init
    update: Update
    recover: Recover | None = None
    fit: "Callable[[Layout, torch.device], Optimizer] | None" = None
    evaluated: str = "params"
    rate_factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "update", leaving_out(self.update))

    def __repr__(self) -> str:
        return f"Optimizer({self.name}: {shown_value(self.hyperparameters)})"

    def on(self, layout: Layout, device: torch.device) -> "Optimizer":
        """Return the optimizer for parameters of some names and shapes; a routine asks for it."""
        if self.fit is None:
            return self
        return replace(self.fit(layout, device), hyperparameters=self.hyperparameters, fit=self.fit)

    def at(self, step: int) -> dict[str, float | Tensor]:
        """Return the hyperparameters of a step."""
        return {**self.hyperparameters, **{n: row[step] for n, row in self._listed.items()}}  # pyright: ignore[reportReturnType] (the lists are replaced)

    @cached_property
    def _listed(self) -> dict[str, Sequence[float]]:
        """The hyperparameters with one number for each step."""
        return {n: v for n, v in self.hyperparameters.items() if not isinstance(v, int | float)}

    @property
    def root(self) -> float | None:
        """The smallest number inside of a square root of second moments, if there is one."""
        return self._smallest("eps_root")

    @property
    def divisor(self) -> float | None:
        """What the smallest second moment divides by; none without ``eps_root``."""
        root = self.root
        return None if root is None else root**0.5 + (self._smallest("eps") or 0.0)

    def _smallest(self, wanted: str) -> float | None:
        """The smallest value of a hyperparameter, of both optimizers where there are two."""
        values = [
            value if isinstance(value, int | float) else min(value)
            for name, value in self.hyperparameters.items()
            if name.removeprefix(REST) == wanted
        ]
        return min(values, default=None)


def refuse_other_tensors(
    optimizer: Optimizer, state: Mapping[str, Tensor], following: Mapping[str, Tensor], step: int
) -> None:
    """Refuse an update that returns other names or shapes than it was given.

    Raises:
        ConfigurationError: If it is refused; names both.
    """
    was = {name: tuple(row.shape) for name, row in state.items()}
    found = {name: tuple(row.shape) for name, row in following.items()}
    if was != found:
        before, after = (
            ", ".join(f"{name} {shape}" for name, shape in sorted(each.items()))
            for each in (was, found)
        )
        raise ConfigurationError(
            f"The optimizer {optimizer.name!r} maps {before} to {after} at step {step}. Return the "
            "same names that init returned, each in its shape."
        )


REST = "rest_"
"""Begins the names of the optimizer that moves what another one leaves, see ``parted``."""


def wrapped(inner: Optimizer, wrap: Callable[[Optimizer], Optimizer]) -> Optimizer:
    """Return ``wrap(inner)``, also where the inner one has to be fitted first."""
    made, fit = wrap(inner), inner.fit
    if fit is None:
        return made
    return replace(made, fit=lambda layout, device: wrap(inner.on(layout, device)))


def unfitted(name: str) -> tuple[Init, Update]:
    """Return functions that refuse, for an optimizer that knows no names and shapes yet."""

    def refuse(*_given: object) -> State:
        raise ConfigurationError(
            f"The optimizer {name!r} reads names and shapes of parameters, which it does not know "
            "by itself. Hand it to a Routine, or call its method on(layout, device) first."
        )

    return refuse, refuse


def parted(
    name: str,
    first: Optimizer,
    rest: Optimizer,
    is_first: Callable[[str, tuple[int, ...]], bool],
    rest_names: Sequence[str] = (),
) -> Optimizer:
    """Return an optimizer of two: one moves some of the parameters, another one the rest.

    Each has moments of its own parameters only. Hyperparameters and moments of the second have
    names that begin with ``rest_``; the learning rate is that of both.

    Args:
        name: Name of the whole.
        first: Moves the parameters that ``is_first`` names.
        rest: Moves the others.
        is_first: Maps name and shape of a parameter to whether it is one of the first.
        rest_names: Patterns of names of the others, each of which has to fit one.

    Raises:
        ConfigurationError: When it is fitted, if there is no parameter of the first kind, or none
            of such a name.
    """
    hyper = {**first.hyperparameters, **{REST + n: v for n, v in rest.hyperparameters.items()}}

    def fit(layout: Layout, device: torch.device) -> Optimizer:
        # A complex matrix is none of real numbers, of which the first one knows something.
        chosen = {
            n: s for n, s in layout.shapes.items() if n not in layout.complexes and is_first(n, s)
        }
        others = {n: s for n, s in layout.shapes.items() if n not in chosen}
        for pattern in rest_names:
            if not any(fnmatchcase(each, pattern) for each in layout.shapes):
                raise ConfigurationError(
                    f"No parameter has a name like {pattern!r}, which {name!r} is to leave to "
                    f"{rest.name}. The parameters are {', '.join(list(layout.shapes)[:6])}.",
                    settings=("optimizer.rest",),
                )
        if not chosen:
            raise ConfigurationError(
                f"The optimizer {name!r} finds none of its parameters: the model has only "
                f"{', '.join(list(layout.shapes)[:3])} and the like. Use {rest.name} by itself."
            )
        if not others:
            return replace(first.on(layout, device), name=name)
        parts = [
            (Layout(shapes, layout.dtype, layout.complexes.intersection(shapes)), each, prefix)
            for shapes, each, prefix in ((chosen, first, ""), (others, rest, REST))
        ]
        return _Parts(
            layout, [(p, each.on(p, device), prefix) for p, each, prefix in parts]
        ).optimizer(name, hyper)

    init, update = unfitted(name)
    return Optimizer(name, hyper, init, update, fit=fit, rate_factors=rest.rate_factors)


@dataclass(frozen=True)
class _Parts:
    """Optimizers of parts of the parameters.

    Attributes:
        layout: Layout of all parameters.
        parts: Layout of a part, its optimizer, and what its names begin with.
    """

    layout: Layout
    parts: list[tuple[Layout, Optimizer, str]]

    def optimizer(self, name: str, hyper: Mapping[str, float | Sequence[float]]) -> Optimizer:
        recovers = all(each.recover is not None for _, each, _ in self.parts)
        return Optimizer(name, hyper, self.init, self.update, self.recover if recovers else None)

    def _gather(self, part: Layout, vector: Tensor) -> Tensor:
        views = self.layout.views(vector)
        return part.flatten({name: views[name] for name in part.shapes})

    def _whole(self, vectors: Sequence[Tensor]) -> Tensor:
        views: dict[str, Tensor] = {}
        for (part, _, _), vector in zip(self.parts, vectors, strict=True):
            views |= part.views(vector)
        return self.layout.flatten(views)

    def _own(self, part: Layout, prefix: str, state: Mapping[str, Tensor]) -> State:
        moments = _of_part(prefix, {n: row for n, row in state.items() if n != "params"})
        return {"params": self._gather(part, state["params"]), **moments}

    def _hyper(self, part: Layout, prefix: str, hyper: Hyperparameters) -> Hyperparameters:
        common = {n: hyper[n] for n in ("learning_rate", USED, UPDATES) if n in hyper}
        own = {**_of_part(prefix, hyper), **common}
        return {
            name: self._gather(part, value)
            if isinstance(value, Tensor) and value.ndim  # one number for each parameter
            else value
            for name, value in own.items()
        }

    def init(self, params: Tensor) -> State:
        return {
            prefix + name: row
            for part, each, prefix in self.parts
            for name, row in each.init(self._gather(part, params)).items()
        }

    @hands_on
    def update(
        self, state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor
    ) -> State:
        moved: list[Tensor] = []
        following: State = {}
        for part, each, prefix in self.parts:
            own, given = self._own(part, prefix, state), self._hyper(part, prefix, hyper)
            after = each.update(own, self._gather(part, gradient), given, step)
            moved.append(after["params"])
            following |= {prefix + name: row for name, row in after.items() if name != "params"}
        return {"params": self._whole(moved), **following}

    def recover(self, state: State, following: State, hyper: Hyperparameters) -> Tensor:
        found = []
        for part, each, prefix in self.parts:
            assert each.recover is not None  # else the whole recovers nothing
            own, after = (self._own(part, prefix, rows) for rows in (state, following))
            found.append(each.recover(own, after, self._hyper(part, prefix, hyper)))
        return self._whole(found)


def _of_part(prefix: str, given: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the values that belong to one of the two parts, under that part's own names."""
    if prefix:
        return {n.removeprefix(prefix): v for n, v in given.items() if n.startswith(prefix)}
    return {name: value for name, value in given.items() if not name.startswith(REST)}
