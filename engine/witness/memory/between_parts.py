"""What the losses of one part of a step's batch keep, and those of a later part read.

Shards and pieces of a batch, and what is injected, go through the loss one after the other. What
one keeps for the next is a constant of its product, and each of them agrees with finite differences
of itself. So they are called again the other way round, after calls with other numbers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic, filling
from engine.routine.loss_terms import Term
from engine.routine.routine import Routine
from engine.step.gradient import batch_in_order
from engine.types import Metaparams, State


def parts_of_step(
    routine: Routine, state: State, z: Metaparams, step: int
) -> Iterator[tuple[Term, State]]:
    """Yield the pieces of a step's batch and of what is injected, each with what it reads.

    Args:
        routine: The run.
        state: s_t, without a graph.
        z: Metaparameters.
        step: t.
    """
    before = [state]
    if routine.shards > 1:
        params = state["params"].clone().requires_grad_()
        before = [{**state, **row} for row in batch_in_order(routine, state, params, z, step)[2]]
    for number, term in enumerate(routine.terms(step)):
        for part in term.cut(routine.piece) if routine.piece is not None else [term]:
            yield part, before[min(number, len(before) - 1)]


def refuse_kept_between_parts(routine: Routine, state: State, z: Metaparams, step: int) -> None:
    """Refuse a step in which the losses of a part follow what an earlier part has kept.

    Args:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.

    Raises:
        WitnessError: If they do.

    Cost:
        Nothing where the batch goes through the loss at once; else its losses three times, without
        a backward pass, and with shards a gradient.
    """
    rows = {name: row.detach() for name, row in state.items()}
    with filling(), deterministic():
        parts = list(parts_of_step(routine, rows, z, step))
        if len(parts) < 2:
            return
        trained = [_losses(routine, part, z, step) for part in parts]
        for part, read in parts:
            _losses(routine, (part, {**read, "params": 1.1 * read["params"]}), z, step)
        again = [_losses(routine, part, z, step) for part in reversed(parts)]
    if not all(map(torch.equal, trained, reversed(again))):
        raise WitnessError(
            f"In step {step} the losses of a shard or a piece of the batch, or of what is "
            "injected, follow what the loss, the module or a hook has kept of another one, which "
            "would be a constant of the metagradient. Compute it anew in each, or let the whole "
            "batch go through the loss at once."
        )


def _losses(routine: Routine, part: tuple[Term, State], z: Metaparams, step: int) -> Tensor:
    term, read = part
    params = read["params"].clone().requires_grad_()  # a loss may take derivatives
    with torch.enable_grad(), routine.reading(read), routine.binding.keeping():
        return routine.term_losses(params, term, z, step).detach()
