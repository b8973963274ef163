"""Test whether the loss of an example depends on the others in its step."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.routine.coupled_loss import coupled
from engine.routine.loss_terms import Term
from engine.routine.routine import Routine

_FEW = 8
"""Examples on which it is looked for."""


def compares(routine: Routine) -> bool:
    """Say whether examples have other losses, or embeddings, than in two halves.

    The model is in evaluation mode, so that layers that draw or normalize do not count. A loss that
    fails with so few examples counts as one that compares them, for example a loss that takes the
    five hardest.

    Args:
        routine: The run; with a coupled loss its embeddings are compared.

    Cost:
        Two evaluations of at most eight examples.
    """
    first, joined = next(routine.terms(0)), coupled(routine.loss)
    if len(first.indices) < 2:
        return False
    few = replace(first, indices=first.indices[:_FEW])
    params = routine.initial_state()["params"].detach().requires_grad_()  # some adapt them inside

    def rows(term: Term) -> Tensor:
        batch, given = routine.loss_inputs(term, routine.point(), 0)

        def losses(model: nn.Module) -> Tensor:
            if joined is not None:
                return joined.embed(model, batch)
            return routine.loss(model, batch, **given)  # pyright: ignore[reportCallIssue] (checked when made)

        with routine.seeded(term, 0):
            return routine.call(losses, params, training=False).detach()

    with torch.enable_grad():  # a loss may differentiate inside
        try:
            whole = rows(few)
            # Each loaded by itself, as padding to the longest may matter, too.
            parts = torch.cat([rows(few.at(half)) for half in few.indices.tensor_split(2)])
        except Exception:
            rows(first)  # as the run does, so that a failure that is not of the few is told
            return True
    return bool((whole - parts).norm() > torch.finfo(whole.dtype).eps ** 0.5 * whole.norm())


def note_of_shards(routine: Routine) -> str:
    """Say what depends on the other examples of a shard, in a run with shards; empty if nothing.

    The same holds in a loop that accumulates gradients. Somebody who sets shards to save memory may
    not expect it.
    """
    normalizing = [
        f"{name!r} ({type(module).__name__}) normalizes"
        for name, module in routine.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
        and (routine.modes.flags[name] or not module.track_running_stats)
    ]
    if normalizing:
        who = normalizing[0]
    elif routine.statistics is None and compares(routine):
        who = "The loss compares examples, or draws for all of them, and does so"
    else:
        return ""
    size = -(-routine.batch_size // routine.shards)
    return (
        f"{who} within each of the {routine.shards} shards of a batch, of {size} examples, as in a "
        f"loop that accumulates gradients: with shards=1 it is over all {routine.batch_size}, and "
        "another run."
    )
