"""The product of a step whose batch goes through the module in parts, where calls move buffers.

Shards are terms of the step. Each reads the buffers that the one before has left, so shards are
pulled in reverse order, and the cotangent of the buffers goes from one to the next. Micro-batches
exist only in the product: the whole term moves the buffers, and the losses of a micro-batch must be
the same with the buffers from before the term.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.routine.idle import noting_used, used_tensors
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS, without_buffers
from engine.routine.module.seen_graph import wants_a_graph
from engine.routine.routine import Routine
from engine.step.gradient import add_injected, batch_in_order, is_active, term_gradient
from engine.step.products import (
    PARAMS,
    Product,
    before_hooks,
    entering,
    joined,
    of_state,
    pull_gradient,
    pull_update,
)
from engine.step.pulls import pulls
from engine.types import Metaparams, State

Cut = Callable[[Routine, Tensor, Term, Metaparams, int], Sequence[Term]]
"""Maps (routine, params, term, z, step) to the parts of a term that are reversed by themselves."""


def pull_in_order(  # noqa: PLR0913 (a step, and how it is cut)
    routine: Routine,
    state: State,
    z: Metaparams,
    step: int,
    cotangent: State,
    cut: Cut,
    *,
    to_state: bool,
) -> tuple[State, Metaparams]:
    """Pull a cotangent back through a step, part by part; see ``engine.step.reference.step_vjp``.

    Cost:
        Four plain steps, because each shard needs what those before it have left, and the update
        the gradient of all; with parts a forward pass of a shard more. Memory: the graph of a part
        and of its gradient, and that of a shard's forward pass.
    """
    leaves = entering(routine, z, step)
    params = state["params"].detach().requires_grad_()
    with routine.binding.keeping():
        with noting_used() as seen:
            batch, _, rows = batch_in_order(routine, state, params, z, step)
            with routine.reading(state):
                gradient = add_injected(routine, batch, params, z, step)
        used = used_tensors(routine, seen, state, step)
        products = pull_update(
            routine, without_buffers(state), gradient, leaves, step, cotangent, used=used
        )
        terms, total = routine.batch_terms(step), torch.zeros_like(batch)
        for term, row in zip(reversed(terms), reversed(rows[:-1]), strict=True):
            held = {name: tensor.detach().requires_grad_() for name, tensor in row.items()}
            inputs = {**leaves, PARAMS: params, of_state(BUFFERS): held[BUFFERS]}
            with routine.reading(row):
                parts = cut(routine, params, term, z, step)
            total = total + _pull_term(routine, term, parts, held, inputs, products, step)
        _refuse_coupled(total, batch, step)
        for product in products:
            assert product.statistics is not None  # those of a state have a cotangent
            product.adjoint[BUFFERS] = product.statistics
        _pull_injected(routine, state, params, leaves, products, z, step)
    return joined(products, leaves, step, to_state=to_state)


def _pull_term(  # noqa: PLR0913 (a term, and where it is pulled to)
    routine: Routine,
    term: Term,
    parts: Sequence[Term],
    held: State,
    inputs: Metaparams,
    products: Sequence[Product],
    step: int,
) -> Tensor:
    """Pull through the gradient of a term and the buffers after it, whose cotangent it replaces.

    Returns:
        The gradient of the term, as the sum of its parts and after the hooks of the parameters.
    """
    params = inputs[PARAMS]
    leaves = {name: inputs[name] for name in routine.metaparameters if name in inputs}
    directions = [product.direction for product in products]
    if routine.hooks_each_shard:
        before = torch.zeros_like(params)
        for part in parts:
            with routine.reading(held):
                before = before + term_gradient(routine, params, part, leaves, step)[0]
        pulled = before_hooks(routine, before, directions, step, term.shard)
        for product, direction in zip(products, pulled, strict=True):
            product.direction = direction
    if len(parts) > 1:  # the whole term moves the buffers
        with routine.reading(held) as calls, torch.enable_grad():
            routine.term_losses(params, term, leaves, step)
            moved = routine.moved_buffers(held, calls, step, term.shard)
        _pull_moved(moved[BUFFERS], inputs, products)
    total = torch.zeros_like(params)
    for part in parts:
        with routine.reading(held) as calls:
            share, _ = term_gradient(routine, params, part, leaves, step, create_graph=True)
        moved, total = None, total + share.detach()
        if len(parts) == 1:
            with torch.enable_grad():
                moved = routine.moved_buffers(held, calls, step, term.shard)
        pull_gradient(share, inputs, products, step, moved)
    for product, direction in zip(products, directions, strict=True):
        found = product.adjoint.pop(BUFFERS, None)
        product.statistics = torch.zeros_like(held[BUFFERS]) if found is None else found
        product.direction = direction
    return routine.hooked_term(total, step, term.shard)


def _refuse_coupled(found: Tensor, expected: Tensor, step: int) -> None:
    """Refuse parts whose gradients are not, together, that of the batch.

    It is asked at every step: a layer that finds its first values from a batch couples the examples
    of that step alone.

    Raises:
        ConfigurationError: If they are not.
    """
    error, size = float((found - expected).norm()), float(expected.norm())
    if not error <= torch.finfo(expected.dtype).eps ** 0.5 * size:
        raise ConfigurationError(
            f"The gradients of the parts of step {step} differ from that of the batch by "
            f"{error:.1e}, of norm {size:.1e}, so the loss of an example depends on the rest of "
            "its batch there: through a buffer that the batch has just moved, perhaps. Leave "
            "micro_batch out, or let the forward pass read the buffer before it moves it."
        )


def _pull_moved(moved: Tensor, inputs: Metaparams, products: Sequence[Product]) -> None:
    if not moved.requires_grad:
        return
    rows = [[product.statistics] for product in products if product.statistics is not None]
    found_of = pulls([moved], list(inputs.values()), rows)
    for product, found in zip(products, found_of, strict=True):
        pairs = zip(inputs, found, strict=True)
        product.add({name: tensor for name, tensor in pairs if tensor is not None})


def _pull_injected(  # noqa: PLR0913 (a step, and where it is pulled to)
    routine: Routine,
    state: State,
    params: Tensor,
    leaves: Metaparams,
    products: Sequence[Product],
    z: Metaparams,
    step: int,
) -> None:
    """Pull through what is injected, which reads the buffers of the state and moves none."""
    held = {BUFFERS: state[BUFFERS].detach().requires_grad_()}
    inputs = {**leaves, PARAMS: params, of_state(BUFFERS): held[BUFFERS]}
    for term in routine.injected_terms(step):
        with routine.reading({**state, **held}):
            share, _ = term_gradient(routine, params, term, leaves, step, create_graph=True)
        # At z = 0 an injected term has no second derivative in the parameters.
        pull_gradient(share, inputs if is_active(term, z) else leaves, products, step)


def _losses(routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int) -> Tensor:
    """Return the losses of a term, without a graph unless they take derivatives of their own."""
    try:
        with torch.no_grad():
            return routine.term_losses(params, term, z, step)
    except Exception as error:
        if not wants_a_graph(error):
            raise
    leaf = params.detach().requires_grad_()
    with torch.enable_grad(), routine.binding.keeping():
        return routine.term_losses(leaf, term, z, step).detach()


def check_separable(
    routine: Routine,
    params: Tensor,
    term: Term,
    pieces: Sequence[Term],
    z: Metaparams,
    step: int,
) -> None:
    """Refuse to cut a term whose losses are not those of its pieces.

    Raises:
        ConfigurationError: Names the layer to blame, where one is known to couple examples.
    """
    whole = _losses(routine, params, term, z, step)
    parts = _in_pieces(routine, params, pieces, z, step)
    moved = {} if routine.statistics is None else routine.statistics.carried.all
    # A centre that the batch moves by little makes little of a difference to its losses.
    digits = 0.75 if moved else 0.5
    limit = torch.finfo(whole.dtype).eps ** digits * whole.norm()
    if parts is not None and (whole - parts).norm() <= limit:
        return
    suspects = [
        f"{name!r} ({type(module).__name__})"
        for name, module in routine.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
        or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)  # pyright: ignore[reportPrivateUsage]
    ]
    because = (
        f"{suspects[0]} draws noise for the batch as a whole, or normalizes over it"
        if suspects
        else f"the loss reads the buffer {next(iter(moved))!r} after the batch has moved it, or an "
        "example depends on the rest of the batch, or on noise"
        if moved
        else "the loss of an example depends on the rest of the batch, or on noise"
    )
    raise ConfigurationError(
        f"micro_batch is {len(pieces[0].indices)}, but {len(whole)} examples of step {step} have "
        f"other losses in pieces than together, or none: {because}. Leave micro_batch out, or use "
        "a model and a loss whose examples are independent, without dropout."
    )


def _in_pieces(
    routine: Routine, params: Tensor, pieces: Sequence[Term], z: Metaparams, step: int
) -> Tensor | None:
    """Return the losses of pieces; None if they fail, as a layer that normalizes one example."""
    try:
        return torch.cat([_losses(routine, params, piece, z, step) for piece in pieces])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError):
        return None
