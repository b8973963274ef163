"""Compares the derivative of an output with a finite difference.

A part that is cut out of the graph (``detach()``, ``.data``, a block without gradients) leaves the
value of an output as it is, and its derivative is that of another function.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.number_format import output_in_format
from engine.routine.outputs import MeanLoss
from engine.routine.routine import Routine
from engine.types import Output, State
from engine.witness.finite_differences import (
    COARSE_LIMIT,
    FIRST_LIMIT,
    ROUNDED_LIMIT,
    Curvature,
    Function,
    compare_first,
    error_of,
)
from engine.witness.lines import cuts
from engine.witness.outputs import Answer, first_part, read_by_outputs
from engine.witness.twins import exact_run

_FEW = 16
"""Held-out examples on which the derivative of their mean loss is compared."""


def is_of_few(output: Output) -> bool:
    """Say whether a few of an output's examples are enough, which are cheaper than all of them."""
    return isinstance(output, MeanLoss) and output.num_examples > _FEW


def compare_output_slope(
    routine: Routine, output: Output, state: State, answer: Answer
) -> tuple[float | None, str]:
    """Compare the derivative of an output by the state with a finite difference, in float64.

    Args:
        routine: The run.
        output: phi; of one with parts, the first is compared.
        state: Where.
        answer: What the engine found it to be there, with its derivative.

    Returns:
        The relative error, or None and why it was not compared.

    Raises:
        WitnessError: If the derivative is wrong.

    Cost:
        Of a mean loss over examples: a gradient and a value of 16 of them in float64. Of any other
        output: its value at one more point of a run in float64, and at two points, in float64, of
        another. Where that does not agree, its gradient in float64, and twice its value for each of
        up to three distances.
    """
    try:
        error = _error_at_a_glance(routine, output, state, answer)
        if error is not None:
            return error, ""
        found, limit = _compared(routine, first_part(output), state)
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"The derivative of the output was not compared: {words[0]}"
    if found.is_wrong:
        raise WitnessError(
            f"The derivative of the output is off by {found.error:.1e} from finite differences: a "
            f"part of it is cut out of the graph{_lines(routine, output, state)}. Look for a "
            "detach(), .data, item(), numpy() or no_grad() in the output, or in what the model "
            "computes in evaluation mode, and for a backward pass that you define yourself "
            "(a custom function). Compute all of the output from the "
            "model's parameters, or leave that part out."
        )
    if not found.error <= limit:  # NaN too: nothing was learned of it, and the result says so
        return None, (
            "The derivative of the output was not compared: finite differences do not settle, as "
            "where it has kinks or is not finite."
        )
    return found.error, ""


def _lines(routine: Routine, output: Output, state: State) -> str:
    """Name what takes values out of the graph of an output, in a clause; empty if nothing is."""
    rows = [state[name].detach().requires_grad_() for name in read_by_outputs(routine, state)]
    with suppress(Exception), routine.binding.keeping():
        function = _function(routine, first_part(output), state)
        found = cuts(lambda: function(rows))
        return f" (by {', '.join(found)})" if found else ""
    return ""


def _error_at_a_glance(
    routine: Routine, output: Output, state: State, answer: Answer
) -> float | None:
    """Return the error of a one-sided difference; None if it is too large to say anything."""
    names = read_by_outputs(routine, state)
    leaves = [state[name].detach().double() for name in names]
    with suppress(Exception), routine.binding.keeping():
        if is_of_few(output):
            few = output_in_format(output, torch.float64, _FEW)
            found = compare_first(_function(routine, few, state), leaves)
            return found.error if found.error <= FIRST_LIMIT else None
        if answer.slopes:
            exact = _is_exact(routine, state)
            limit = FIRST_LIMIT if exact else ROUNDED_LIMIT
            error = error_of(
                _function(routine, _exact_part(routine, output, state), state),
                leaves,
                [answer.slopes[name] for name in names],
                float(answer.value) if exact else None,
            )
            return error if error <= limit else None
    return None


def _compared(routine: Routine, part: Output, state: State) -> tuple[Curvature, float]:
    """Compare a part with differences at several distances, in float64 if that can be."""
    try:
        return _in_double(routine, part, state), FIRST_LIMIT
    except Exception:  # e.g. a scripted module, which holds float32 where nobody converts
        if routine.layout.dtype == torch.float64:
            raise
    try:
        return _in_double(exact_run(routine), part, state), FIRST_LIMIT
    except Exception:  # e.g. an output that writes into a float32 tensor of its own
        leaves = [state[name].detach() for name in read_by_outputs(routine, state)]
        with routine.binding.keeping():
            found = compare_first(_function(routine, part, state), leaves, coarse=True)
        return found, COARSE_LIMIT


def _in_double(routine: Routine, part: Output, state: State) -> Curvature:
    leaves = [state[name].detach().double() for name in read_by_outputs(routine, state)]
    with routine.binding.keeping():
        exact = _exact_part(routine, part, state)
        found = compare_first(_function(routine, exact, state), leaves)
        if found.error <= FIRST_LIMIT or not _is_exact(routine, state):
            return found
        # Perhaps a part of it is rounded to float32 by the model itself, as of a softmax.
        with suppress(Exception):
            whole = output_in_format(part, torch.float64)
            again = compare_first(_function(routine, whole, state), leaves)
            found = again if again.error <= FIRST_LIMIT else found
        return found


def _is_exact(routine: Routine, state: State) -> bool:
    formats = {row.dtype for row in state.values() if row.is_floating_point()}
    return {routine.layout.dtype, *formats} == {torch.float64}


def _exact_part(routine: Routine, output: Output, state: State) -> Output:
    """Return the first part of an output as it is in float64."""
    part = first_part(output)
    return part if _is_exact(routine, state) else output_in_format(part, torch.float64)


def _function(routine: Routine, part: Output, state: State) -> Function:
    """Return an output as a function of what it reads of a state."""
    names = read_by_outputs(routine, state)
    rows = {name: row.detach() for name, row in state.items()}
    real = routine.statistics.real if routine.statistics is not None else 0

    def function(values: Sequence[Tensor]) -> Tensor:
        # With gradients everywhere, because an output may take derivatives of its own.
        leaves = [value if value.requires_grad else value.requires_grad_() for value in values]
        read = dict(zip(names, leaves, strict=True))
        with torch.enable_grad():
            if BUFFERS in read and real < len(rows[BUFFERS]):  # what counts has no derivative
                counts = rows[BUFFERS][real:].to(read[BUFFERS].dtype)
                read[BUFFERS] = torch.cat([read[BUFFERS][:real], counts])
            return routine.evaluate(part, {**rows, **read})

    return function
