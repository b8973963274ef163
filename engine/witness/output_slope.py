"""The derivative of an output beside a finite difference of it.

A part that is cut out of the graph (``detach()``, ``.data``, a block without gradients) leaves the
value of an output as it is, and its derivative is that of another function.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.routine.module.batch_norm import BUFFERS
from engine.routine.number_format import output_in_format
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.types import Output, State
from engine.witness.finite_differences import COARSE_LIMIT, UPDATE_LIMIT, Curvature, compare_first
from engine.witness.outputs import first_part
from engine.witness.twins import exact_run


def compare_output_slope(
    routine: Routine, output: Output, state: State
) -> tuple[float | None, str]:
    """Compare the derivative of an output by the state with a finite difference, in float64.

    Args:
        routine: The run.
        output: phi; of one with parts, the first is compared.
        state: Where.

    Returns:
        The relative error, or None and why it was not compared.

    Raises:
        WitnessError: If the derivative is wrong.

    Cost:
        The output with its graph and its gradient, and once more, in float64; where that does not
        agree, twice for each of up to three distances.
    """
    part, limit = first_part(output), UPDATE_LIMIT
    try:
        try:
            found = _compared(routine, part, state)
        except Exception:  # e.g. a scripted module, which holds float32 where nobody converts
            if routine.layout.dtype == torch.float64:
                raise
            try:
                found = _compared(exact_run(routine), part, state)
            except Exception:  # e.g. an output that writes into a float32 tensor of its own
                limit = COARSE_LIMIT
                found = _compared(routine, part, state, coarse=True)
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"The derivative of the output was not compared: {words[0]}"
    if found.is_wrong:
        raise WitnessError(
            f"The derivative of the output is off by {found.error:.1e} from finite differences of "
            "it: a part of it is cut out of the graph. Look for a detach(), .data, item(), numpy() "
            "or no_grad() in the output, or in what the model computes where it is evaluated. "
            "Compute all of the output from the model's parameters, or leave that part out."
        )
    if not found.error <= limit:  # NaN too: nothing was learned of it, and the result says so
        return None, (
            "The derivative of the output was not compared: finite differences do not settle, as "
            "where it has kinks or is not finite."
        )
    return found.error, ""


def _compared(routine: Routine, part: Output, state: State, *, coarse: bool = False) -> Curvature:
    """Compare in float64, or in the run's own format."""
    formats = {row.dtype for row in state.values() if row.is_floating_point()}
    if not coarse and {routine.layout.dtype, *formats} != {torch.float64}:
        part = output_in_format(part, torch.float64)
    read = (routine.optimizer.evaluated, BUFFERS, OWN)
    names = [name for name in read if name in state and state[name].is_floating_point()]
    rows = {name: row.detach() for name, row in state.items()}

    def function(values: Sequence[Tensor]) -> Tensor:
        # With gradients everywhere, because an output may take derivatives of its own.
        leaves = [value if value.requires_grad else value.requires_grad_() for value in values]
        with torch.enable_grad():
            return routine.evaluate(part, {**rows, **dict(zip(names, leaves, strict=True))})

    with routine.binding.kept():
        leaves = [rows[name] if coarse else rows[name].double() for name in names]
        return compare_first(function, leaves, coarse=coarse)
