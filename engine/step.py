"""One training step, and its vector-Jacobian product.

A step is h_t(s, z) = update(s, g(s, z)), where g is the gradient of the loss. The product is taken
in two stages: through the update, which gives the cotangent v of g, then through g, which is
reverse over reverse: the graph of a gradient is differentiated once more. g is a sum over terms,
so each term can be pulled back by itself, and no two graphs need be alive at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from engine.buffers import BUFFERS, without_buffers
from engine.errors import UndifferentiableError
from engine.routine import Routine, Term
from engine.types import Metaparams, State


def plain_step(routine: Routine, state: State, z: Metaparams, step: int) -> tuple[State, Tensor]:
    """Train one step, without a graph.

    Args:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.

    Returns:
        s_{t+1}, and the loss of the step's batch at s_t, a scalar tensor.
    """
    params = state["params"].detach().requires_grad_()
    first, *injected = routine.terms(step)
    with routine.reading(state) as calls:
        gradient, loss = _gradient(routine, params, first, z, step)
    with routine.reading(state):  # what is injected does not move the running statistics
        gradient = _add_values(routine, gradient, injected, params, z, step)
    with torch.no_grad():
        hyper = routine.hyperparameters(z, step)
        following = routine.optimizer.update(without_buffers(state), gradient, hyper, step)
        return {**following, **routine.moved_buffers(state, calls, step)}, loss


def traced_step(routine: Routine, state: State, z: Metaparams, step: int) -> State:
    """Train one step inside autograd's graph, for oracles: memory grows with every step."""
    gradient, moved = torch.zeros_like(state["params"]), None
    for term in routine.terms(step):
        with routine.reading(state) as calls:
            loss = routine.term_loss(state["params"], term, z, step)
            (share,) = torch.autograd.grad(loss, state["params"], create_graph=True)
        gradient = gradient + share
        moved = routine.moved_buffers(state, calls, step) if moved is None else moved
    hyper = routine.hyperparameters(z, step)
    following = routine.optimizer.update(without_buffers(state), gradient, hyper, step)
    return {**following, **(moved or {})}


def step_vjp(
    routine: Routine,
    state: State,
    z: Metaparams,
    step: int,
    cotangent: State,
    *,
    to_state: bool = True,
) -> tuple[State, Metaparams]:
    """Pull a cotangent back through one training step, by reverse over reverse.

    Computes (lambda_t, g_t) = (lambda_{t+1} ds_{t+1}/ds_t, lambda_{t+1} ds_{t+1}/dz).

    Args:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.
        cotangent: lambda_{t+1}, same names and shapes as ``state``.
        to_state: Whether lambda_t is wanted; the first step that reads z can do without.

    Returns:
        lambda_t (empty if not wanted), and this step's share of the metagradient: a tensor for each
        metaparameter that enters the step.

    Raises:
        UndifferentiableError: If a kernel has no second derivative, or something that should carry
            a gradient is cut out of the graph.

    Cost:
        Three plain steps: the step with its graph, and twice its products. Checked by
        ``tests/bench/bench_reverse.py``.
    """
    params = state["params"].detach().requires_grad_()
    statistics = {BUFFERS: state[BUFFERS].detach().requires_grad_()} if BUFFERS in state else {}
    leaves = {
        name: z[name].detach().requires_grad_()
        for name, kind in routine.metaparameters.items()
        if kind.enters(step)
    }
    first, *injected = routine.terms(step)
    with _named_refusals(step):
        with routine.reading(statistics) as calls:
            gradient, _ = _gradient(routine, params, first, leaves, step, create_graph=True)
        with torch.enable_grad():
            moved = routine.moved_buffers(statistics, calls, step)
        with routine.reading(state):
            total = _add_values(routine, gradient.detach(), injected, params, z, step)
        adjoint, direction, shares = _pull_update(
            routine, without_buffers(state), total, leaves, step, cotangent
        )

        def pull(gradient: Tensor, moved: State, *, to_params: bool) -> None:
            inputs = {**leaves, **({_PARAMS: params, **statistics} if to_params else {})}
            outputs = {gradient: direction, **{row: cotangent[name] for name, row in moved.items()}}
            pulled = _pull_gradient(outputs, inputs, step)
            if to_params:
                adjoint["params"] = adjoint["params"] + pulled.pop(_PARAMS)
            for name in statistics.keys() & pulled.keys():
                known, found = adjoint.get(name), pulled.pop(name)
                adjoint[name] = found if known is None else known + found
            _accumulate(shares, pulled)

        pull(gradient, moved, to_params=to_state)
        del gradient, moved, calls  # frees their graph before the next term makes one
        for term in injected:
            with routine.reading(statistics):
                share, _ = _gradient(routine, params, term, leaves, step, create_graph=True)
            # At z = 0 an injected term has no second derivative in the parameters, only z's share.
            pull(share, {}, to_params=to_state and _is_active(term, z))
    missing = sorted(leaves.keys() - shares.keys())
    if missing:
        raise UndifferentiableError(
            f"Metaparameter {missing[0]!r} enters step {step}, but nothing that the step computes "
            "depends on it, so its metagradient would be zero by mistake. Look for a detach() or "
            "a .data between the metaparameter and the loss."
        )
    return (adjoint if to_state else {}), shares


def initial_vjp(routine: Routine, z: Metaparams, cotangent: State) -> Metaparams:
    """Pull lambda_0 back through s_0(z): the share of metaparameters that shape the start."""
    leaves = {
        name: z[name].detach().requires_grad_()
        for name, kind in routine.metaparameters.items()
        if kind.shapes_start
    }
    with torch.enable_grad():
        params = routine.initial_state({**z, **leaves})["params"]
    if not params.requires_grad:
        raise UndifferentiableError(
            f"The metaparameters {sorted(leaves)} should shape the initial parameters, which do "
            "not depend on them. Look for a detach() or a .data in the kind's initial()."
        )
    pulled = torch.autograd.grad(params, list(leaves.values()), cotangent["params"])
    return dict(zip(leaves, pulled, strict=True))


_PARAMS = "params of the model"  # a key beside metaparameter names, which have no spaces


def check_twice_differentiable(routine: Routine, params: Tensor, z: Metaparams, step: int) -> None:
    """Run every node of the graph of a step's gradient backward once.

    ``step_vjp`` asks for the cotangents of named inputs, and torch then runs only the nodes on a
    path to them. A function marked ``once_differentiable`` has no such path: its part would be
    missing without an error.

    Raises:
        UndifferentiableError: If a node cannot be run.

    Cost:
        As ``step_vjp``.
    """
    leaf = params.detach().requires_grad_()
    first = next(routine.terms(step))
    with _named_refusals(step):
        gradient, _ = _gradient(routine, leaf, first, z, step, create_graph=True)
        torch.autograd.backward(gradient, torch.ones_like(gradient))


def _gradient(
    routine: Routine,
    params: Tensor,
    term: Term,
    z: Metaparams,
    step: int,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        loss = routine.term_loss(params, term, z, step)
        if not loss.requires_grad:
            raise UndifferentiableError(
                f"The loss of step {step} does not depend on the parameters, so there is nothing "
                "to train. Look for a detach(), a .data or a no_grad() in the model or the loss."
            )
        (gradient,) = torch.autograd.grad(loss, params, create_graph=create_graph)
    return gradient, loss.detach()


def _is_active(term: Term, z: Metaparams) -> bool:
    weights = term.weights(z)
    return weights is None or bool(weights.any())


def _add_values(
    routine: Routine,
    gradient: Tensor,
    terms: Sequence[Term],
    params: Tensor,
    z: Metaparams,
    step: int,
) -> Tensor:
    for term in terms:
        if _is_active(term, z):
            gradient = gradient + _gradient(routine, params, term, z, step)[0]
    return gradient


def _pull_update(
    routine: Routine,
    state: State,
    gradient: Tensor,
    z: Metaparams,
    step: int,
    cotangent: State,
) -> tuple[State, Tensor, Metaparams]:
    """Pull the cotangent through the optimizer's update alone."""
    inputs = {name: tensor.detach().requires_grad_() for name, tensor in state.items()}
    gradient = gradient.detach().requires_grad_()
    with torch.enable_grad():
        hyper = routine.hyperparameters(z, step)
        following = routine.optimizer.update(inputs, gradient, hyper, step)
    if following.keys() != state.keys():
        raise UndifferentiableError(
            f"The optimizer {routine.optimizer.name!r} maps {sorted(state)} to "
            f"{sorted(following)} at step {step}. Return the same names that init returned."
        )
    sources = [*inputs.values(), gradient]
    pulled = torch.autograd.grad(
        [following[name] for name in state],
        [*sources, *z.values()],
        [cotangent[name] for name in state],
        allow_unused=True,
    )
    for name, tensor in zip([*inputs, "the gradient"], pulled, strict=False):
        if tensor is None:
            raise UndifferentiableError(
                f"The update of optimizer {routine.optimizer.name!r} does not depend on {name!r} "
                f"at step {step}, so the adjoint would lose it. Write the update without "
                "detach(), .data, in-place changes or no_grad()."
            )
    adjoint = dict(zip(inputs, pulled, strict=False))
    found = zip(z, pulled[len(sources) :], strict=True)
    shares = {name: tensor for name, tensor in found if tensor is not None}
    return adjoint, pulled[len(sources) - 1], shares


def _pull_gradient(outputs: dict[Tensor, Tensor], inputs: Metaparams, step: int) -> Metaparams:
    """Pull the cotangents of a gradient, and of the statistics that its loss moved, through them.

    Args:
        outputs: Each to its cotangent.
        inputs: Those that no output reads are left out of the result.
        step: t.
    """
    if not inputs:
        return {}
    graphs = {output: cotangent for output, cotangent in outputs.items() if output.requires_grad}
    pulled = (
        torch.autograd.grad(
            list(graphs), list(inputs.values()), list(graphs.values()), allow_unused=True
        )
        if graphs
        else [None] * len(inputs)
    )
    found = {name: t for name, t in zip(inputs, pulled, strict=True) if t is not None}
    if _PARAMS in inputs and _PARAMS not in found:
        raise UndifferentiableError(
            f"The gradient of the loss at step {step} does not depend on the parameters. Either "
            "the loss is linear in them, or a custom backward is cut out of the graph. Write it "
            "with differentiable operations."
        )
    return found


def _accumulate(shares: Metaparams, pulled: Metaparams) -> None:
    for name, tensor in pulled.items():
        shares[name] = shares[name] + tensor if name in shares else tensor


@contextmanager
def _named_refusals(step: int) -> Iterator[None]:
    """Turn torch's own words for a missing second derivative into ours."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        known = ("derivative for", "not implemented", "once_differentiable", "double backward")
        if "in-place operation" in text:
            raise UndifferentiableError(
                f"Step {step} changes a tensor in place that its derivative needs: "
                f"{text.splitlines()[0]} Return new tensors from the model, the loss and the "
                "optimizer's update instead."
            ) from error
        if not any(word in text for word in known):
            raise
        raise UndifferentiableError(
            f"Step {step} cannot be differentiated twice: {text.splitlines()[0]} "
            "A metagradient needs the second derivative of every operation of the model and the "
            "loss. Replace that operation; for attention, run it inside "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        ) from error
