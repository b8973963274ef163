"""The gradient of a term of a step's loss."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from engine.errors import UndifferentiableError
from engine.numerics.summation import tree_sum
from engine.recipes.replay import StepPath
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.coupled_pieces import gradient_in_pieces
from engine.step.missing_derivatives import named_refusals
from engine.step.programs.compiling import compiled_gradient
from engine.step.pulls import gradient_of, pull_through_every_node
from engine.types import Metaparams, State


def check_twice_differentiable(routine: Routine, params: Tensor, z: Metaparams, step: int) -> None:
    """Run every node of the graph of a step's gradient backward once.

    See ``engine.step.pulls.pull_through_every_node`` for what it finds.

    Raises:
        UndifferentiableError: If a node cannot be run.

    Cost:
        As ``step_vjp``.
    """
    leaf = params.detach().requires_grad_()
    first = routine.first_piece(next(routine.terms(step)))
    if routine.compile:  # a compiled graph has nodes of its own
        routine = replace(routine, compile=False)
    with named_refusals(step), routine.binding.keeping():
        gradient, _ = term_gradient(routine, leaf, first, z, step, create_graph=True)
        # Ones of their own, because kernels of grouped products refuse those of a sum, which are
        # one number in many places.
        pull_through_every_node([gradient], [leaf], [torch.ones_like(gradient)])


def term_gradient(
    routine: Routine,
    params: Tensor,
    term: Term,
    z: Metaparams,
    step: int,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a term at ``params``, shape (params,), and its loss."""
    if routine.piece is not None and not create_graph:
        return gradient_in_pieces(routine, params, term, z, step)
    if _is_compiled(routine, term, create_graph):
        return compiled_gradient(routine, params, term, z, step)
    with torch.enable_grad(), routine.binding.keeping():
        loss = routine.term_loss(params, term, z, step)
        if not loss.requires_grad:
            raise UndifferentiableError(
                f"The loss of step {step} does not depend on the parameters, so there is nothing "
                "to train. Look for a detach(), a .data or a no_grad() in the model or the loss."
            )
        gradient = gradient_of(loss, params, create_graph=create_graph)
        if gradient is None:
            raise UndifferentiableError(
                f"The loss of step {step} does not depend on the parameters of the module that it "
                "is given: look for an argmax or a comparison, of which there is no derivative, a "
                "detach(), or a module of another name in it. Read all parameters from the module "
                "that the loss is given."
            )
    return gradient, loss.detach()


def _is_compiled(routine: Routine, term: Term, create_graph: bool) -> bool:
    """Say whether a gradient is compiled: that of a batch, on the path that defines the run."""
    on_path = create_graph == (routine.path is StepPath.GRAPH)
    return routine.compile and on_path and term.purpose[0] == "batch" and term.whole is None


def is_active(term: Term, z: Metaparams) -> bool:
    """Say whether a term has any weight at z."""
    weights = term.weights(z)
    return weights is None or bool(weights.any())


def batch_in_order(
    routine: Routine,
    state: State,
    params: Tensor,
    z: Metaparams,
    step: int,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor, list[State]]:
    """Return the gradient of a step's batch, and what its shards move.

    The gradients of the shards are summed in one binary tree (``engine.numerics.summation``), each
    after the hooks of the parameters have mapped it. Shards go through the module in order, and
    each reads the buffers that the one before has left, as in a torch loop that accumulates
    gradients.

    Args:
        routine: The run.
        state: s_t; of it buffers, and the problem's own state, are read.
        params: The parameters of s_t, a leaf.
        z: Metaparameters.
        step: t.
        create_graph: Whether gradient and buffers are wanted with their graph.

    Returns:
        The gradient, shape (params,); the loss; and buffers and own state before each shard and
        after the last one.
    """
    rows = [{name: state[name] for name in (BUFFERS, OWN) if name in state}]

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for term in routine.batch_terms(step):
            with routine.reading(rows[-1]) as calls:
                found, loss = term_gradient(
                    routine, params, term, z, step, create_graph=create_graph
                )
            with torch.set_grad_enabled(create_graph):
                rows.append(
                    {**rows[-1], **routine.moved_buffers(rows[-1], calls, step, term.shard)}
                )
                hooked = routine.hooked_term(found, step, term.shard)
            yield hooked, loss

    gradient, loss = tree_sum(parts(), _added)
    return gradient, loss, rows


def _added(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return one[0] + other[0], one[1] + other[1]


def add_injected(
    routine: Routine, gradient: Tensor, params: Tensor, z: Metaparams, step: int
) -> Tensor:
    """Add the gradient of what is injected in a step, where it has any weight."""
    for term in routine.injected_terms(step):
        # Of weight 0 it still uses what it reads: weights around 0 do, and a derivative is theirs.
        if is_active(term, z) or routine.skip_idle:
            gradient = gradient + term_gradient(routine, params, term, z, step)[0]
    return gradient
