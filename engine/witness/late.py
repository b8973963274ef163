"""The second derivative of a step as the run ended, beside a finite difference.

A loss may cut something out of the graph from some point on: for examples that are learned by then,
or once it is small. Before the training nobody can know.
"""

import torch

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.curvature import Here, compare_loss


def refuse_late_cuts(routine: Routine, state: State, z: Metaparams) -> None:
    """Refuse a loss whose second derivative is wrong at the end of the run.

    Args:
        routine: The run.
        state: s_T.
        z: Metaparameters.

    Raises:
        WitnessError: Says by how much.

    Cost:
        The losses of a batch without a gradient, and two gradients of a few examples in float64.
    """
    step = routine.num_steps - 1
    with deterministic():
        term = routine.first_piece(next(routine.terms(step)))
        params = state["params"].detach().requires_grad_()
        with torch.enable_grad(), routine.reading(state):  # a loss may take derivatives
            losses = routine.term_losses(params, term, z, step).detach()
        if not torch.isfinite(losses).all():
            return
        rows = {name: row.detach() for name, row in state.items()}
        here = Here(rows, term, losses, {}, torch.zeros(0), step, z, {})
        try:
            compare_loss(routine, here)
        except WitnessError as error:
            raise WitnessError(
                f"{error} At the start of the run it was right, so this begins with the training: "
                "look for what depends on the size of a loss, on how sure the model is, or on how "
                "large a weight is."
            ) from None
