"""The derivative of running statistics by the parameters beside a finite difference.

A call of the model without a graph (pseudo-labels under ``no_grad()``, a detached input) moves the
statistics of its batch normalizations as any other does, by numbers that move with the parameters.
No loss shows that, and no gradient.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import generator
from engine.routine.module.batch_norm import BUFFERS
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.finite_differences import Function, compare_first, directions, not_settled
from engine.witness.lines import cuts, first_line
from engine.witness.twins import exact, exact_few, exact_state

_FEW = 32
"""Examples of a step that are looked at."""


def refuse_cut_statistics(routine: Routine, state: State, z: Metaparams, step: int) -> str:
    """Refuse a step that moves running statistics by what is cut out of the graph.

    Args:
        routine: The run; nothing is done if it has none.
        state: Where.
        z: Metaparameters.
        step: t.

    Returns:
        What was not compared, and why; mostly empty.

    Raises:
        WitnessError: Names the lines that cut.

    Cost:
        The loss of at most 32 examples in float64 with its graph, and once without; some more
        where that does not agree.
    """
    if routine.statistics is None:
        return ""
    try:
        twin, read = exact_few(routine), exact_state(state)
        function = _moved(twin, read, {name: exact(value) for name, value in z.items()}, step)
        leaves = [read["params"], read[BUFFERS]]
        with twin.binding.kept():
            found = compare_first(function, leaves)
    except Exception as error:  # e.g. a loss that insists on float32
        return f"The derivative of running statistics was not compared: {first_line(error)}"
    if not found.is_wrong:
        return not_settled("The derivative of running statistics", found)
    lines: list[str] = []
    with suppress(Exception):  # which would hide what is wrong
        rows = [row.requires_grad_() for row in leaves]
        lines = cuts(lambda: function(rows))
    where = f"by {', '.join(lines)}" if lines else "by a no_grad(), a detach() or a .data"
    raise WitnessError(
        "The running statistics of batch normalizations are moved by numbers that move with the "
        f"parameters and are taken out of the graph {where}, so their derivative would be lost. "
        "Write engine.stop_gradient(x) in place of x.detach(), and engine.stop_gradient(model(x)) "
        "in place of a call under no_grad(); or put the model into evaluation mode for that call."
    )


def _moved(twin: Routine, read: State, z: Metaparams, step: int) -> Function:
    term = twin.first_piece(next(twin.terms(step)))
    term = term.at(term.indices[:_FEW])
    weights = directions(read[BUFFERS], generator(0, "statistics"))

    def function(leaves: Sequence[Tensor]) -> Tensor:
        params, buffers = leaves
        given = {**read, BUFFERS: buffers}
        with torch.enable_grad(), twin.reading(given) as calls:
            leaf = params if params.requires_grad else params.clone().requires_grad_()
            twin.term_losses(leaf, term, z, step)
            return (twin.moved_buffers(given, calls, step)[BUFFERS] * weights).sum()

    return function
