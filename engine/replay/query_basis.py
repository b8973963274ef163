"""Metagradients of any number of queries from the sweeps of a few directions.

A metagradient is linear in the derivative of its output by the trained parameters. So the
metagradients of K directions of the parameters, made in one sweep, give that of every output whose
derivative lies in their span, and of any other one up to what it has outside of it. The directions
are the singular vectors of some outputs' derivatives, the largest first: of the validation losses
that later queries resemble.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.recipes.replay import replay_from
from engine.replay.metagradient import differentiate
from engine.replay.plain_training import train_unchecked
from engine.replay.refusals.later_steps import LaterSteps
from engine.replay.seeding import seed_adjoint
from engine.routine.intake import outputs_from
from engine.routine.routine import Routine
from engine.types import Metaparams, Output, State
from engine.witness.memory.between_steps import BetweenSteps

_LEAST = 1e-6  # of the largest singular value; directions below are rounding


@dataclass(frozen=True, repr=False)
class Query:
    """What a basis says of one output.

    Attributes:
        gradient: Its metagradient, as far as the basis spans it, by metaparameter.
        outside: Share of the output's derivative outside of the basis, in norm, 0 to 1. The
            metagradient lacks what that share is pulled back to; at 0 it is exact to rounding.
    """

    gradient: Metaparams
    outside: float

    def __getitem__(self, name: str) -> Tensor:
        return self.gradient[name]

    def __repr__(self) -> str:
        return f"Query({', '.join(self.gradient)}; {self.outside:.2g} outside of the basis)"


@dataclass(frozen=True, repr=False)
class QueryBasis:
    """Directions of the trained parameters, and the metagradient of each.

    Attributes:
        routine: The run.
        state: s_T.
        directions: Orthonormal, the one that explains most first, shape (K, params).
        gradients: Metagradient along each, by metaparameter, shape (K, ...).
    """

    routine: Routine
    state: State
    directions: Float[Tensor, "size params"]
    gradients: Metaparams

    def __len__(self) -> int:
        return len(self.directions)

    def __repr__(self) -> str:
        return f"QueryBasis({len(self)} directions; {', '.join(self.gradients)})"

    def query(self, output: Output, size: int | None = None) -> Query:
        """Return the metagradient of another output of the same trained model.

        Args:
            output: phi.
            size: Directions that are used, the first ones; all by default.

        Raises:
            ConfigurationError: If there are not that many directions.
            NonFiniteError: If phi or its derivative is infinite or NaN.

        Cost:
            One gradient of the output, and K products of vectors; no step is run.
        """
        if size is not None and not 1 <= size <= len(self):
            raise ConfigurationError(
                f"size is {size}, but the basis has 1 to {len(self)} directions. Use one of these."
            )
        derivative = self._derivative(output)
        parts = self.directions[:size] @ derivative
        gradient = {
            name: torch.tensordot(parts.to(rows.dtype), rows[:size], dims=1)
            for name, rows in self.gradients.items()
        }
        return Query(gradient, float(shares_outside(parts, derivative)[-1]))

    def outside(self, output: Output) -> Tensor:
        """Return the share of an output's derivative outside of the first 0, 1, ..., K directions.

        Returns:
            Shares in norm, falling from 1, shape (K + 1,).
        """
        derivative = self._derivative(output)
        return shares_outside(self.directions @ derivative, derivative)

    def _derivative(self, output: Output) -> Tensor:
        return _derivatives(self.routine, self.state, [output])[0]


def query_basis(
    routine: Routine,
    outputs: Sequence[Output],
    size: int | None = None,
    *,
    store: str | os.PathLike[str] | None = None,
    **options: Any,  # noqa: ANN401 (the fields of ReplaySettings, checked by it)
) -> QueryBasis:
    """Train a routine once, and differentiate the directions that some outputs span.

    Args:
        routine: The run, at the metaparameters' own values.
        outputs: N outputs like those that will be asked for, e.g. losses of single examples.
        size: K; as many as the outputs span by default.
        store: As for ``engine.metagradient``.
        **options: As for ``engine.metagradients``; ``vjp="batched"`` pulls the directions together.

    Raises:
        ConfigurationError: If there is no output, the size is no number of directions, no output
            changes with the parameters, or the model's state holds more than these, which an output
            may read.

    Cost:
        A training, N gradients of outputs, and a sweep of K outputs. Memory: N + 2 K vectors of
        parameters.
    """
    outputs = outputs_from(outputs)
    refuse_more_state(routine)
    if size is not None and not 1 <= size <= len(outputs):
        raise ConfigurationError(
            f"size is {size}, but {len(outputs)} outputs span 1 to {len(outputs)} directions. Use "
            "one of these, or give more outputs."
        )
    replay = replay_from(options, "query_basis", ("size", "store"))
    memory = BetweenSteps(routine, routine.point())  # of before any training
    state = train_unchecked(routine)
    directions = strongest_directions(_derivatives(routine, state, outputs), size)
    along = [_along(routine, row) for row in directions]
    later = LaterSteps(routine, routine.point(), memory=memory)
    found = differentiate(routine, along, None, replay, store, later=later)
    names = found[0].gradient
    gradients = {name: torch.stack([each.gradient[name] for each in found]) for name in names}
    return QueryBasis(routine, state, directions, gradients)


def refuse_more_state(routine: Routine) -> None:
    """Refuse a run whose outputs read more than the parameters.

    Raises:
        ConfigurationError: If it is refused; names the remedy.
    """
    if routine.statistics is not None or routine.own is not None:
        raise ConfigurationError(
            "A basis of queries is one of derivatives by the parameters, but this run's outputs "
            "read more of the state: running statistics, or a state of its own. Use metagradients, "
            "one sweep for each query.",
            settings=("attribution.basis",),
        )


def strongest_directions(
    derivatives: Float[Tensor, "outputs params"], size: int | None = None
) -> Float[Tensor, "size params"]:
    """Return orthonormal directions that some derivatives span, the one that explains most first.

    There are fewer than ``size`` where the derivatives span fewer.

    Raises:
        ConfigurationError: If all derivatives are 0.
    """
    _, strengths, directions = torch.linalg.svd(derivatives, full_matrices=False)
    kept = int((strengths > _LEAST * strengths[0]).sum())
    if not kept:
        raise ConfigurationError(
            "The derivative of every output by the trained parameters is 0, so they span no "
            "direction. Give outputs that change with the parameters, such as losses."
        )
    return directions[: min(kept, size or kept)].contiguous()


def _derivatives(routine: Routine, state: State, outputs: Sequence[Output]) -> Tensor:
    """Return the derivative of each output by the evaluated parameters, shape (outputs, params)."""
    evaluated = routine.optimizer.evaluated
    with deterministic():
        return torch.stack([seed_adjoint(routine, state, each)[1][evaluated] for each in outputs])


def _along(routine: Routine, direction: Tensor) -> Callable[[nn.Module], Tensor]:
    """Return the output that is the component of the parameters along a direction."""
    layout = routine.layout

    def component(model: nn.Module) -> Tensor:
        return layout.flatten(dict(model.named_parameters())) @ direction

    return component


def shares_outside(parts: Tensor, derivative: Tensor) -> Tensor:
    """Return the norm of a derivative beyond its first 0, 1, ... components, over its whole norm.

    Args:
        parts: Its components along the directions, shape (K,).
        derivative: It, shape (params,).

    Returns:
        Shares in norm, falling from 1, shape (K + 1,).
    """
    square = parts.double().square().cumsum(0)
    whole = derivative.double().square().sum().clamp(min=1e-300)
    return torch.cat([square.new_ones(1), (1 - square / whole).clamp(min=0).sqrt()])
