"""Slow and obvious references for a metagradient, which share as little as possible with REPLAY.

``whole_run_gradient`` unrolls the run inside autograd's graph: no schedule, no checkpoint, no
step-wise products. ``central_difference`` trains twice: no second derivative at all.
"""

import math

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.replay.plain_training import evaluate, train
from engine.routine.intake import direction_from, point_from, refuse_output
from engine.routine.module.operations import without_checkpointing
from engine.routine.module.stop_gradient import whole_derivatives
from engine.routine.number_format import in_format, output_in_format
from engine.routine.routine import Routine
from engine.step.step import traced_step
from engine.types import Metaparams, Output


@torch.inference_mode(mode=False)  # also where a notebook is in it
def whole_run_gradient(
    routine: Routine, output: Output, z: Metaparams | None = None
) -> tuple[Tensor, Metaparams]:
    """Differentiate the whole run by autograd, keeping every graph.

    Returns:
        phi(s_T) and d phi / d z.

    Cost:
        Memory grows with T: each step's graph is kept, forward and backward.
    """
    point = point_from(routine, z)
    refuse_output(output)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in point.items()}
    with deterministic(), torch.enable_grad(), without_checkpointing():
        start = routine.initial_state(leaves)
        # Each step asks for the gradient by its parameters, also where z does not shape the start.
        state = {n: row if row.requires_grad else row.requires_grad_() for n, row in start.items()}
        for step in range(routine.num_steps):
            state = traced_step(routine, state, leaves, step)
        value = routine.evaluate(output, state)
        with whole_derivatives():
            gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


@torch.inference_mode(mode=False)  # also where a notebook is in it
def central_difference(
    routine: Routine,
    output: Output,
    direction: Metaparams,
    *,
    step_size: float = 1e-5,
    z: Metaparams | None = None,
) -> float:
    """Estimate the derivative of the output along a direction from two trainings.

    (phi(A(z + h v)) - phi(A(z - h v))) / 2h, both trainings in float64, whatever format the run
    has, with the random numbers of the run. The truncation error is of order h^2, the rounding
    error of order eps / h: in float64 both are near 1e-10 at the default h, and in float32 they
    would be larger than what is looked for. With a kink in the model (ReLU, max pooling) the run is
    not differentiable, and the estimate need not agree.

    Args:
        routine: The run.
        output: phi.
        direction: v, one tensor for each metaparameter that moves.
        step_size: h, in units of z.
        z: Where; the routine's own point by default.

    Raises:
        ConfigurationError: If the direction is not one of the metaparameters.
    """
    point = point_from(routine, z)
    refuse_output(output)
    vector = direction_from(routine, direction)
    if not isinstance(step_size, int | float) or not 0 < step_size < math.inf:
        raise ConfigurationError(
            f"step_size is {step_size!r}, which is no distance. Use a number above 0, e.g. 1e-5."
        )
    exact = routine
    if routine.layout.dtype is not torch.float64:
        exact, output = in_format(routine, torch.float64), output_in_format(output, torch.float64)
    point = {name: tensor.to(torch.float64) for name, tensor in point.items()}

    def value_at(shift: float) -> float:
        moved = {
            name: tensor + shift * vector[name].to(tensor) if name in vector else tensor
            for name, tensor in point.items()
        }
        return float(evaluate(exact, train(exact, moved), output))

    return (value_at(step_size) - value_at(-step_size)) / (2 * step_size)
