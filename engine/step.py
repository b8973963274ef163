"""One training step, and its vector-Jacobian product.

A step is h_t(s, z) = update(s, g(s, z)), where g is the gradient of the loss. The product is taken
in two stages: through the update, which gives the cotangent v of g, then through g, which is
reverse over reverse: the graph of a gradient is differentiated once more. g is a sum over terms,
so each term can be pulled back by itself, and no two graphs need be alive at once.

A step can be run with its graph, and pulled back later (``open_step``): the step is then not run
again for its product. Torch may use other kernels where a graph is wanted, so the state after it
may differ in the last digits from that of the step without one. ``Routine.path`` says which of
the two defines the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from engine.buffers import BUFFERS, without_buffers
from engine.errors import UndifferentiableError
from engine.product import (
    PARAMS,
    entering,
    join,
    joined,
    named_refusals,
    pull_gradient,
    pull_update,
    split,
)
from engine.programs import compiled_gradient
from engine.reversal import StepPath
from engine.routine import Routine
from engine.terms import Term
from engine.types import Metaparams, State


@runtime_checkable
class StepVjp(Protocol):
    """What ``step_vjp`` is, and every faster or leaner way to the same product."""

    def __call__(
        self,
        routine: Routine,
        state: State,
        z: Metaparams,
        step: int,
        cotangent: State,
        *,
        to_state: bool = True,
    ) -> tuple[State, Metaparams]:
        """See ``step_vjp``."""
        ...


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
    if routine.path is StepPath.GRAPH:
        graph = open_step(routine, state, z, step)
        return graph.following(), graph.loss
    params = state["params"].detach().requires_grad_()
    first, *injected = routine.terms(step)
    with routine.reading(state) as calls:
        gradient, loss = term_gradient(routine, params, first, z, step)
    with routine.reading(state):  # what is injected does not move the running statistics
        gradient = _add_values(routine, gradient, injected, params, z, step)
    with torch.no_grad():
        following = routine.update(state, gradient, z, step)
        return {**following, **routine.moved_buffers(state, calls, step)}, loss


def traced_step(routine: Routine, state: State, z: Metaparams, step: int) -> State:
    """Train one step inside autograd's graph, for oracles: memory grows with every step."""
    gradient, moved = torch.zeros_like(state["params"]), None
    for term in routine.terms(step):
        with routine.reading(state) as calls, routine.binding.kept():
            loss = routine.term_loss(state["params"], term, z, step)
            (share,) = torch.autograd.grad(loss, state["params"], create_graph=True)
        gradient = gradient + share
        moved = routine.moved_buffers(state, calls, step) if moved is None else moved
    following = routine.update(state, gradient, z, step)
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
        cotangent: lambda_{t+1}, same names and shapes as ``state``, or K of them: one more axis
            in front, which the results have as well.
        to_state: Whether lambda_t is wanted; the first step that reads z can do without.

    Returns:
        lambda_t (empty if not wanted), and this step's share of the metagradient: a tensor for each
        metaparameter that enters the step.

    Raises:
        UndifferentiableError: If a kernel has no second derivative, or something that should carry
            a gradient is cut out of the graph.

    Cost:
        Three plain steps: the step with its graph, and twice its products; 1 + 2 K for K
        cotangents. Checked by ``tests/bench/bench_reverse.py`` and ``bench_outputs.py``.
    """
    if routine.piece is not None:
        return _vjp_in_pieces(routine)(routine, state, z, step, cotangent, to_state=to_state)
    return open_step(routine, state, z, step).pull(cotangent, to_state=to_state)


def _vjp_in_pieces(routine: Routine) -> StepVjp:
    """Return the product of a run in pieces; one for all of its steps, because it is checked."""
    from engine.pieces import pull_in_pieces  # these two are written with this module
    from engine.two_stage import TwoStageVjp

    return routine.programs.setdefault("in pieces", TwoStageVjp(pull_in_pieces))


@dataclass(eq=False)
class StepGraph:
    """A step that was run with the graph of its gradient; made by ``open_step``, pulled once.

    Attributes:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.
        params: The parameters of s_t, from which the graph starts.
        statistics: The running statistics of s_t, likewise, if there are any.
        leaves: The metaparameters that enter the step, likewise.
        gradient: Of the step's batch, with its graph.
        moved: The running statistics after the step, with their graph.
        total: g, the gradient of all terms, without a graph.
        loss: Of the step's batch, a scalar.
        held: What the module held when the graph was made: what it computes again in the backward
            pass reads that.
    """

    routine: Routine
    state: State
    z: Metaparams
    step: int
    params: Tensor
    statistics: State
    leaves: Metaparams
    gradient: Tensor
    moved: State
    total: Tensor
    loss: Tensor
    held: dict[str, Tensor | None]

    def following(self) -> State:
        """Return s_{t+1}, without a graph."""
        with torch.no_grad():
            after = self.routine.update(self.state, self.total, self.z, self.step)
            return {**after, **{name: row.detach() for name, row in self.moved.items()}}

    def pull(self, cotangent: State, *, to_state: bool = True) -> tuple[State, Metaparams]:
        """Pull cotangents back through the step, and free its graph; see ``step_vjp``."""
        routine, step, z, leaves = self.routine, self.step, self.z, self.leaves
        _, *injected = routine.terms(step)
        with named_refusals(step), routine.binding.kept():
            routine.binding.put(self.held)
            before = without_buffers(self.state)
            products = pull_update(routine, before, self.total, leaves, step, cotangent)
            inputs = {**leaves, **({PARAMS: self.params, **self.statistics} if to_state else {})}
            pull_gradient(self.gradient, inputs, products, step, self.moved)
            del self.gradient, self.moved  # frees their graph before the next term makes one
            for term in injected:
                with routine.reading(self.statistics):
                    share, _ = term_gradient(
                        routine, self.params, term, leaves, step, create_graph=True
                    )
                # At z = 0 an injected term has no second derivative in the parameters.
                pull_gradient(share, inputs if is_active(term, z) else leaves, products, step)
        return joined(products, leaves, step, to_state=to_state)


def open_step(routine: Routine, state: State, z: Metaparams, step: int) -> StepGraph:
    """Run a step with the graph of its gradient, to be pulled back once.

    Args:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.

    Raises:
        UndifferentiableError: If a kernel has no second derivative.

    Cost:
        A plain step; up to a quarter more where torch has another formula for a gradient that is
        differentiated again. Its graph keeps the state and about what the step computes.
    """
    params = state["params"].detach().requires_grad_()
    statistics = {BUFFERS: state[BUFFERS].detach().requires_grad_()} if BUFFERS in state else {}
    leaves = entering(routine, z, step)
    first, *injected = routine.terms(step)
    with named_refusals(step):
        with routine.reading(statistics) as calls, routine.binding.kept():
            gradient, loss = term_gradient(routine, params, first, leaves, step, create_graph=True)
            held = routine.binding.bound()
        with torch.enable_grad():
            moved = routine.moved_buffers(statistics, calls, step)
        with routine.reading(state):  # what is injected does not move the running statistics
            total = _add_values(routine, gradient.detach(), injected, params, z, step)
    return StepGraph(
        routine=routine,
        state=state,
        z=z,
        step=step,
        params=params,
        statistics=statistics,
        leaves=leaves,
        gradient=gradient,
        moved=moved,
        total=total,
        loss=loss,
        held=held,
    )


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
    shares = [
        torch.autograd.grad(params, list(leaves.values()), row["params"], retain_graph=True)
        for row in split(cotangent)
    ]
    return join([dict(zip(leaves, share, strict=True)) for share in shares])


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
    first = routine.first_piece(next(routine.terms(step)))
    routine = replace(routine, compile=False)  # a compiled graph has nodes of its own
    with named_refusals(step), routine.binding.kept():
        gradient, _ = term_gradient(routine, leaf, first, z, step, create_graph=True)
        torch.autograd.backward(gradient, torch.ones_like(gradient))


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
        from engine.pieces import gradient_in_pieces  # written with this module

        return gradient_in_pieces(routine, params, term, z, step)
    if _is_compiled(routine, term, create_graph):
        return compiled_gradient(routine, params, term, z, step)
    with torch.enable_grad(), routine.binding.kept():
        loss = routine.term_loss(params, term, z, step)
        if not loss.requires_grad:
            raise UndifferentiableError(
                f"The loss of step {step} does not depend on the parameters, so there is nothing "
                "to train. Look for a detach(), a .data or a no_grad() in the model or the loss."
            )
        (gradient,) = torch.autograd.grad(
            loss, params, create_graph=create_graph, allow_unused=True
        )
        if gradient is None:
            raise UndifferentiableError(
                f"The loss of step {step} does not depend on the parameters of the module that it "
                "is given, but on others: look for a module of another name in it. Read all "
                "parameters from the module that the loss is given."
            )
    return gradient, loss.detach()


def _is_compiled(routine: Routine, term: Term, create_graph: bool) -> bool:
    """Say whether a gradient is compiled: that of a batch, on the path that defines the run."""
    on_path = create_graph == (routine.path is StepPath.GRAPH)
    return routine.compile and on_path and term.purpose == ("batch",) and term.whole is None


def is_active(term: Term, z: Metaparams) -> bool:
    """Say whether a term has any weight at z."""
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
        if is_active(term, z):
            gradient = gradient + term_gradient(routine, params, term, z, step)[0]
    return gradient
