"""Slow and obvious references for a metagradient, which share as little as possible with REPLAY.

``whole_run_gradient`` unrolls the run inside autograd's graph: no schedule, no checkpoint, no
step-wise products. ``central_difference`` trains twice: no second derivative at all, and
``central_differences`` does so along many directions in batched runs.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigurationError, naming_arguments
from engine.numerics.determinism import deterministic
from engine.progress.board import one_work
from engine.progress.counted import forward_work, graph_work
from engine.progress.displays import Shown, showing
from engine.replay.at_once import at_once
from engine.replay.batched import Together, evaluate_each, train_many
from engine.replay.plain_training import evaluate, refuse_reader, train_unchecked
from engine.routine.intake import direction_from, point_from, refuse_output
from engine.routine.module.operations import without_checkpointing
from engine.routine.module.stop_gradient import whole_derivatives
from engine.routine.number_format import in_format, output_in_format
from engine.routine.routine import Routine
from engine.step.step import traced_step
from engine.types import Metaparams, Output, State
from engine.witness.leaves import foreign_leaves, refuse_leaves
from engine.witness.outputs import first_part


@naming_arguments
@torch.inference_mode(mode=False)  # also where a notebook is in it
def whole_run_gradient(
    routine: Routine, output: Output, z: Metaparams | None = None, *, progress: Shown = False
) -> tuple[Tensor, Metaparams]:
    """Differentiate the whole run by autograd, keeping every graph.

    It shares no schedule and no product with ``metagradient``, which it checks for short runs.

    Args:
        routine: The run.
        output: phi.
        z: Where; the metaparameters' own values by default.
        progress: As for ``metagradient``; the pull through the whole graph, two thirds of the
            time, has no steps that could be counted.

    Returns:
        phi(s_T) and d phi / d z by metaparameter, each with the shape of z.

    Raises:
        WitnessError: If loss or output read a tensor with a gradient that no state holds.

    Cost:
        Memory grows with T: each step's graph is kept, forward and backward.
    """
    point = point_from(routine, z)
    refuse_output(output)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in point.items()}
    steps = routine.num_steps
    with (
        showing(progress, "whole-run gradient") as meter,
        one_work(partial(graph_work, steps), "training with every graph"),
        deterministic(),
        torch.enable_grad(),
        without_checkpointing(),
        routine.binding.keeping(),
    ):
        _refuse_foreign(routine, output, point)
        start = routine.initial_state(leaves)
        # Each step asks for the gradient by its parameters, also where z does not shape the start.
        state = {n: row if row.requires_grad else row.requires_grad_() for n, row in start.items()}
        for step in range(routine.num_steps):
            state = _bordered(routine, traced_step(routine, state, leaves, step))
            meter.ran(step, steps)
        value = routine.evaluate(output, state)
        refuse_reader(routine, output, {name: row.detach() for name, row in state.items()})
        with whole_derivatives():
            gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def _bordered(routine: Routine, state: State) -> State:
    """Return a state at which the backward pass restores the module to what the step had left.

    Code that runs in the backward pass, such as a function that computes again what it did not
    keep, reads the module; by then another step's parameters would be in it.
    """
    held = routine.binding.bound()

    def give_back() -> None:
        routine.modes.train()
        routine.binding.put(held)

    moving = {name: row for name, row in state.items() if row.requires_grad}
    rows = _Border.apply(give_back, *moving.values())
    return {**state, **dict(zip(moving, rows, strict=True))}


class _Border(torch.autograd.Function):
    """Identity whose backward pass calls a function first."""

    @staticmethod
    def forward(ctx: Any, call: Callable[[], None], *rows: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401 (torch's own)
        ctx.call = call
        return tuple(row.view_as(row) for row in rows)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 (likewise)
        ctx.call()
        return (None, *cotangents)


def _refuse_foreign(routine: Routine, output: Output, z: Metaparams) -> None:
    """Refuse a loss or output that reads the trained parameters from outside its arguments."""
    state = routine.initial_state(z)
    leaves = {n: row.detach().requires_grad_(row.is_floating_point()) for n, row in state.items()}
    known, term = [*leaves.values(), *z.values()], next(routine.terms(0))

    def loss() -> Tensor:
        with torch.enable_grad(), routine.reading(state), routine.binding.keeping():
            return routine.term_loss(leaves["params"], routine.first_piece(term), z, 0)

    def value() -> Tensor:
        with torch.enable_grad(), routine.binding.keeping():
            return routine.evaluate(first_part(output), leaves)

    for what, function in (("loss", loss), ("output", value)):
        found = function()
        if isinstance(found, Tensor) and found.requires_grad and foreign_leaves(found, known):
            refuse_leaves(routine.given, what, function, known)


@naming_arguments
@torch.inference_mode(mode=False)  # also where a notebook is in it
def central_difference(
    routine: Routine,
    output: Output,
    direction: Metaparams,
    *,
    step_size: float = 1e-5,
    z: Metaparams | None = None,
    progress: Shown = False,
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
        progress: As for ``metagradient``.

    Raises:
        ConfigurationError: If the direction is not one of the metaparameters.
        WitnessError: If loss or output read a tensor with a gradient that no state holds.
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
    with deterministic():
        _refuse_foreign(exact, output, point)

    def value_at(shift: float) -> float:
        moved = {
            name: tensor + shift * vector[name].to(tensor) if name in vector else tensor
            for name, tensor in point.items()
        }
        return float(evaluate(exact, train_unchecked(exact, moved), output))

    with (
        showing(progress, "central difference"),
        one_work(partial(forward_work, 2 * routine.num_steps), "two trainings"),
    ):
        return (value_at(step_size) - value_at(-step_size)) / (2 * step_size)


def central_differences(
    routine: Routine, output: Output, directions: Sequence[Metaparams], step_size: float
) -> list[float] | None:
    """Estimate derivatives as ``central_difference`` does, from runs that are trained together.

    The sums of a batched run go in another order, so the estimates are off by rounding: about
    eps / h of the output.

    Args:
        routine: The run, in float64.
        output: phi, likewise.
        directions: Each v.
        step_size: h, in units of z.

    Returns:
        One for each direction; None where the runs cannot be batched, or are so large that a batch
        of them would gain nothing. No clock decides that.

    Cost:
        For 20 directions of a small model a third of the time of 40 trainings.
    """
    most = at_once(routine)
    if most < 2 * _FEWEST_DIRECTIONS or len(directions) < _FEWEST_DIRECTIONS:
        return None
    z, found = routine.point(), []
    for part in torch.arange(len(directions)).tensor_split(-(-2 * len(directions) // most)):
        points = [
            {
                n: t + sign * step_size * directions[i][n].to(t) if n in directions[i] else t
                for n, t in z.items()
            }
            for i in part.tolist()
            for sign in (1, -1)
        ]
        try:
            states = train_many(routine, points, together=Together.BATCHED)
        except ConfigurationError:  # what is wrong with the runs themselves is said by the loop
            return None
        values = evaluate_each(routine, output, states, together=Together.BATCHED)
        found += ((values[0::2] - values[1::2]) / (2 * step_size)).tolist()
    return found


_FEWEST_DIRECTIONS = 4
"""Directions below which comparing a batched run with the loop costs what it saves."""
