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

from collections.abc import MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import UndifferentiableError
from engine.recipes.replay import StepPath
from engine.routine.idle import noting_used, used_tensors
from engine.routine.module.buffers.batch_norm import BUFFERS, without_buffers
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.gradient import add_injected, batch_in_order, is_active, term_gradient
from engine.step.missing_derivatives import named_refusals
from engine.step.products import (
    PARAMS,
    Product,
    entering,
    join,
    joined,
    of_state,
    pull_gradient,
    pull_own,
    pull_update,
    split,
)
from engine.types import Metaparams, State

NOTED: ContextVar[MutableMapping[int, Tensor] | None] = ContextVar("NOTED", default=None)
"""Where the loss of each step that is run with its graph is noted, by step, if anybody wants it."""


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
    with noting_used() as seen:
        gradient, loss, rows = batch_in_order(routine, state, params, z, step)
        with routine.reading(state):  # what is injected does not move the running statistics
            gradient = add_injected(routine, gradient, params, z, step)
    used = used_tensors(routine, seen, state, step)
    with torch.no_grad():
        following = routine.update(state, gradient, z, step, used)
        own = routine.moved_own(state, following["params"], z, step)
        return {**following, **own, **_buffers(rows[-1])}, loss


def traced_step(routine: Routine, state: State, z: Metaparams, step: int) -> State:
    """Train one step inside autograd's graph, for oracles: memory grows with every step."""
    gradient = torch.zeros_like(state["params"])
    # A node of its own: what else is in the state may have been made of the parameters.
    params = state["params"].clone()
    with noting_used() as seen:
        if BUFFERS in state and not state[BUFFERS].requires_grad:
            # What moves them by the parameters is a part of the graph, from the first step on.
            state = {**state, BUFFERS: state[BUFFERS].detach().requires_grad_()}
        row = state
        for term in routine.terms(step):
            is_batch = term.purpose[0] == "batch"
            with routine.reading(row if is_batch else state) as calls, routine.binding.keeping():
                loss = routine.term_loss(params, term, z, step)
                (share,) = torch.autograd.grad(loss, params, create_graph=True)
            gradient = gradient + routine.hooked_term(share, step, term.shard)
            if is_batch:
                row = {**row, **routine.moved_buffers(row, calls, step, term.shard)}
    following = routine.update(state, gradient, z, step, used_tensors(routine, seen, state, step))
    own = routine.moved_own(state, following["params"], z, step)
    return {**following, **own, **_buffers(row)}


def _buffers(row: State) -> State:
    return {name: tensor for name, tensor in row.items() if name == BUFFERS}


@dataclass(eq=False)
class StepGraph:
    """A step that was run with the graph of its gradient; made by ``open_step``, pulled once.

    Attributes:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.
        params: The parameters of s_t, from which the graph starts.
        statistics: The running statistics of s_t, and its own state, likewise, if there are any.
        leaves: The metaparameters that enter the step, likewise.
        gradient: Gradient of the step's batch, with its graph.
        moved: The running statistics after the step, with their graph.
        total: g, the gradient of all terms, without a graph.
        loss: Loss of the step's batch, a scalar.
        used: Which tensors of the parameters the step moves; None for all.
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
    used: Tensor | None
    held: dict[str, Tensor | None]

    def following(self) -> State:
        """Return s_{t+1}, without a graph."""
        with torch.no_grad():
            after = self.routine.update(self.state, self.total, self.z, self.step, self.used)
            own = self.routine.moved_own(self.state, after["params"], self.z, self.step)
            return {**after, **own, **{name: row.detach() for name, row in self.moved.items()}}

    def pull(
        self,
        cotangent: State,
        *,
        to_state: bool = True,
        together: bool = False,
        every_node: bool = False,
    ) -> tuple[State, Metaparams]:
        """Pull cotangents back through the step, and free its graph; see ``step_vjp``.

        ``together`` pulls all of them in one pass, and ``every_node`` asks nodes that lead nowhere
        whether they can be run; see ``engine.step.pulls``.
        """
        routine, step, leaves = self.routine, self.step, self.leaves
        with named_refusals(step), routine.binding.keeping():
            routine.binding.put(self.held)
            before = without_buffers(self.state)
            after: State = {}
            if routine.own is not None:
                with torch.no_grad():
                    after = routine.update(self.state, self.total, self.z, step, self.used)
            cotangent, pulled = pull_own(routine, self.state, after, leaves, step, cotangent)
            products = pull_update(
                routine,
                before,
                self.total,
                leaves,
                step,
                cotangent,
                used=self.used,
                together=together,
            )
            for product, share in zip(products, pulled, strict=False):
                product.add(share)
            routine.binding.put(self.held)
            rows = {of_state(name): row for name, row in self.statistics.items()}
            inputs = {**leaves, **({PARAMS: self.params, **rows} if to_state else {})}
            pull_gradient(
                self.gradient,
                inputs,
                products,
                step,
                self.moved,
                together=together,
                every_node=every_node,
            )
            del self.gradient, self.moved  # frees their graph before the next term makes one
            self._pull_injected(inputs, products, together=together)
        for product in products:  # what a step puts there anew depends on nothing that was there
            for name, row in self.statistics.items():
                product.adjoint.setdefault(name, torch.zeros_like(row))
        return joined(products, leaves, step, to_state=to_state)

    def _pull_injected(
        self, inputs: Metaparams, products: Sequence[Product], *, together: bool
    ) -> None:
        """Pull each product's direction through the gradients of what the step injects."""
        for term in self.routine.injected_terms(self.step):
            with self.routine.reading(self.statistics):
                share, _ = term_gradient(
                    self.routine, self.params, term, self.leaves, self.step, create_graph=True
                )
            # At z = 0 an injected term has no second derivative in the parameters.
            wanted = inputs if is_active(term, self.z) else self.leaves
            pull_gradient(share, wanted, products, self.step, together=together)


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
    statistics = {n: state[n].detach().requires_grad_() for n in (BUFFERS, OWN) if n in state}
    leaves = entering(routine, z, step)
    with named_refusals(step), noting_used() as seen:
        with routine.binding.keeping():
            gradient, loss, rows = batch_in_order(
                routine, statistics, params, leaves, step, create_graph=True
            )
            held = routine.binding.bound()
        with routine.reading(state):  # what is injected does not move the running statistics
            total = add_injected(routine, gradient.detach(), params, z, step)
    noted = NOTED.get()
    if noted is not None:
        noted[step] = loss
    return StepGraph(
        routine=routine,
        state=state,
        z=z,
        step=step,
        params=params,
        statistics=statistics,
        leaves=leaves,
        gradient=gradient,
        moved=_buffers(rows[-1]),
        total=total,
        loss=loss,
        used=used_tensors(routine, seen, state, step),
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
        start = routine.initial_state({**z, **leaves})
    made = {name: row for name, row in start.items() if row.requires_grad and name != BUFFERS}
    if "params" not in made:
        raise UndifferentiableError(
            f"The metaparameters {sorted(leaves)} should shape the initial parameters, which do "
            "not depend on them. Look for a detach() or a .data in the kind's initial()."
        )
    shares = [
        torch.autograd.grad(
            list(made.values()),
            list(leaves.values()),
            [row[name] for name in made],
            retain_graph=True,
        )
        for row in split(cotangent)
    ]
    return join([dict(zip(leaves, share, strict=True)) for share in shares])
