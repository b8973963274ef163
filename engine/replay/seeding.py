"""The output of a run, and the adjoint that it is reversed with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.errors import NonFiniteError, UndifferentiableError
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.module.stop_gradient import whole_derivatives
from engine.routine.outputs import parts_of
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.types import Output, State


def seed_adjoint(
    routine: Routine,
    state: State,
    output: Output,
    look: Callable[[Any], None] = lambda _value: None,
) -> tuple[Tensor, State]:
    """Evaluate the output at s_T and make its adjoint lambda_T = d phi / d s_T.

    The model is in evaluation mode. A ``MeanLoss`` is differentiated chunk by
    chunk, which bounds the memory.

    Args:
        routine: The run.
        state: s_T.
        output: phi.
        look: Called with the value of each part of the output, with its graph, before the part is
            differentiated.

    Returns:
        phi(s_T), a scalar, and lambda_T, zero for the optimizer's moments.

    Raises:
        NonFiniteError: If phi or its derivative is infinite or NaN.
    """
    # The output reads the parameters or their average, and what else the state has for it.
    evaluated = routine.optimizer.evaluated
    read = {evaluated, BUFFERS, OWN} & state.keys()
    leaves = {name: state[name].detach().requires_grad_() for name in sorted(read)}
    total = torch.zeros((), dtype=leaves[evaluated].dtype, device=leaves[evaluated].device)
    adjoint = {name: torch.zeros_like(row) for name, row in state.items()}
    for part in parts_of(output):
        with torch.enable_grad(), routine.binding.keeping():
            value = routine.evaluate(part, {**state, **leaves})
            look(value)
            with whole_derivatives():
                gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        total = total + value.detach()
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                adjoint[name] = adjoint[name] + gradient
            elif name == evaluated and all(each is None for each in gradients):
                raise UndifferentiableError(
                    "The output does not depend on the model's parameters. Look for a detach(), "
                    "a no_grad() or an argmax in it."
                )
    if not torch.isfinite(total):
        raise NonFiniteError(
            f"The output of the model is {float(total)}. Look for a log(0), a division by zero or "
            "an overflow in it; if training has diverged by then, use a lower learning_rate.",
            settings=("training.learning_rate",),
        )
    if not all(torch.isfinite(found).all() for found in adjoint.values()):
        raise NonFiniteError(
            f"The output of the model is {float(total)}, but its derivative is infinite or NaN. "
            "Look for a square root, a norm, a logarithm or a power at 0 in the model in "
            "evaluation mode or in the output, and add a small number inside it."
        )
    return total, adjoint
