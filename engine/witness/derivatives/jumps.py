"""Warns of an optimizer whose update depends on its gradient in jumps only, such as a sign.

Its derivative by the gradient is 0 wherever it has one. That is no fault of autograd, and a finite
difference agrees; but whatever reaches the run through its loss then has a metagradient of 0.
And one that moves a parameter without a gradient, which torch's own optimizers leave as it is.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.errors import UndifferentiableError
from engine.metaparameters.base import Metaparameter
from engine.numerics.determinism import generator
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.finite_differences import directions

_SMALL = 1e-4
"""A gradient so much smaller is beyond no limit at which values are clipped."""


def note_of_jumps(
    routine: Routine, state: State, gradient: Tensor, z: Metaparams, step: int
) -> str:
    """Return a warning about an update that follows its gradient in jumps; mostly none.

    Args:
        routine: The run.
        state: What the optimizer moves.
        gradient: Gradient of the loss there, shape (params,).
        z: Metaparameters.
        step: t.

    Raises:
        UndifferentiableError: If no metaparameter reaches the run in another way, so that all of
            the metagradient would be 0.

    Cost:
        An update with its derivative; some more where that is 0.
    """
    if not routine.metaparameters or not gradient.any():
        return ""
    step = _largest_step(routine, step)
    small = _SMALL * gradient
    if _follows(routine, state, gradient, z, step) or _follows(routine, state, small, z, step):
        return ""
    with torch.no_grad():
        there, back = (
            routine.update(state, routine.hooked_term(sign * gradient, step), z, step)["params"]
            for sign in (1, -1)
        )
    if torch.equal(there, back):
        return ""  # a step that does not read its gradient, as of one that is accumulated
    unheard = [name for name, kind in routine.metaparameters.items() if _enters_by_loss(kind)]
    if not unheard:
        return ""
    words = (
        f"The update of optimizer {routine.optimizer.name!r} uses its gradient only through jumps "
        "(a sign, a rounding, a comparison). Its derivative by the gradient is 0, so the "
        f"metagradient of {', '.join(map(repr, unheard))} is 0 whatever the data."
    )
    if len(unheard) == len(routine.metaparameters):
        raise UndifferentiableError(
            f"{words} Write a smooth function in its place, such as x / (x.square() + 1e-6).sqrt() "
            "or torch.tanh(x / 1e-3) for x.sign(), or use engine.adamw."
        )
    return words


def _largest_step(routine: Routine, step: int) -> int:
    """Return the step of the largest rate: in a warm-up, none may move anything at first."""
    rates = routine.learning_rate
    if isinstance(rates, int | float):
        return step
    return max(range(len(rates)), key=rates.__getitem__)


def _follows(routine: Routine, state: State, gradient: Tensor, z: Metaparams, step: int) -> bool:
    """Say whether the parameters after an update have a derivative by gradient or moments."""
    given = gradient.detach().requires_grad_()
    rows: Mapping[str, Tensor] = {
        name: row.detach().requires_grad_(row.is_floating_point()) for name, row in state.items()
    }
    moments = [row for name, row in rows.items() if name != "params" and row.requires_grad]
    with torch.enable_grad(), routine.binding.keeping():
        return follows(
            routine.update(rows, routine.hooked_term(given, step), z, step)["params"],
            [given, *moments],
        )


def follows(after: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Say whether parameters have a derivative by the gradient, the first of the leaves, or others.

    Where they have none at all, they are cut out of the graph, which is refused with other words.
    """
    if not after.requires_grad:
        return True
    weights = directions(after.detach(), generator(0, "jumps"))
    # Of a number, because torch loads sympy to compare the shapes of cotangents that it is given.
    slopes = torch.autograd.grad(after @ weights, leaves, allow_unused=True, retain_graph=True)
    if slopes[0] is None:
        return True
    return any(slope is not None and bool(slope.any()) for slope in slopes)


def _enters_by_loss(kind: Metaparameter) -> bool:
    """Say whether a kind moves neither the start nor what the optimizer reads."""
    return type(kind).hyperparameters is Metaparameter.hyperparameters and not kind.shapes_start
