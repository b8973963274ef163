"""The point at which a step of the engine is compared with one of the module, and the former."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import NonFiniteError
from engine.numerics.determinism import generator
from engine.routine.layout import Layout
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import Metaparams, State
from engine.witness.compared_steps import StepNumbers
from engine.witness.derivatives.few_examples import Here
from engine.witness.finite_differences import directions
from engine.witness.in_place import Frozen
from engine.witness.leaves import foreign_leaves, refuse_leaves


@dataclass(frozen=True)
class ComparedPoint:
    """Where the engine's step is compared with that of the module, and the engine's step there.

    Attributes:
        routine: The run.
        z: Metaparameters.
        first: s_0.
        state: The state of the comparison, which is not the first.
        term: The loss that is compared: that of the batch, or of its first shard.
        step: t.
        own: The engine's step.
    """

    routine: Routine
    z: Metaparams
    first: State
    state: State
    term: Term
    step: int
    own: StepNumbers

    @property
    def gradient(self) -> Tensor:
        """The engine's gradient before the hooks of the parameters, shape (params,)."""
        assert self.own.flat is not None
        return self.own.flat

    @property
    def calls_before(self) -> dict[str, int]:
        """How often each layer has normalized a batch before this step."""
        calls = self.own.calls
        return {name: self.step * self.routine.shards * calls[name] for name in calls}

    def again(self) -> StepNumbers:
        """Take the engine's step once more."""
        return engine_step(self.routine, self.term, self.z, self.step, self.state)

    def led_to(self) -> State:
        """Take the engine's step once more, and return all that it moves."""
        repeated = self.again()
        assert repeated.flat is not None
        with torch.no_grad():  # as in a step of training
            rows = updated(
                self.routine, {**self.first, **self.state}, repeated.flat, self.z, self.step
            )
        return repeated.moved | rows

    def here(self, after: State, moves: dict[str, float]) -> Here:
        """Return the point as the comparison of second derivatives takes it.

        Args:
            after: The state after the step's update.
            moves: How far the update moves each part of the state.
        """
        return Here(
            self.state, self.term, self.own.losses, after, self.gradient, self.step, self.z, moves
        )


def compared_point(routine: Routine, z: Metaparams) -> ComparedPoint:
    """Choose the point at which the steps are compared, and take the engine's step there.

    Raises:
        NonFiniteError: If its losses are not finite.
    """
    step, first = min(1, routine.num_steps - 1), routine.initial_state(z)
    term = routine.first_piece(next(routine.terms(step)))
    state, own = _moved_step(routine, first, term, z, step)
    return ComparedPoint(routine, z, first, state, term, step, own)


def _moved_step(
    routine: Routine, first: State, term: Term, z: Metaparams, step: int
) -> tuple[State, StepNumbers]:
    """Return a state that is not the first, and the engine's step there.

    Raises:
        NonFiniteError: If its losses are not finite, also after one step of training.
    """
    state = moved_state(routine, first)
    own = engine_step(routine, term, z, step, state)
    if not torch.isfinite(own.losses).all():  # 5 % may be too much where a logarithm is near
        state, _ = plain_step(routine, first, z, 0)
        own = engine_step(routine, term, z, step, state)
    if not torch.isfinite(own.losses).all():
        raise NonFiniteError(
            f"The loss of step {step} is {own.total}. The first step went well, so look at the "
            "examples of this one, and for a logarithm, a root or a division by 0 in the model or "
            "the loss; if there is none, use a lower learning_rate.",
            settings=("training.learning_rate",),
        )
    return state, own


def moved_state(routine: Routine, state: State) -> State:
    """Return a state that is neither the first nor near it: each number is moved by about 5 %.

    No step is taken for it: in a warm-up, none would move anything. Every second tensor grows and
    every other one shrinks, by other shares of its numbers, so that the size of a tensor is another
    one and that of what the layers compute is not.

    Args:
        routine: The run.
        state: Its first state, or one in its place.
    """
    layout, drawn = routine.layout, generator(routine.seed, "witness")
    moved = {"params": _moved(layout, state["params"].detach(), drawn, 0.01)}
    if routine.statistics is not None:
        buffers, real = state[BUFFERS].detach(), routine.statistics.real
        other = _moved(routine.statistics.layout, buffers, drawn, 0.1)
        moved[BUFFERS] = torch.cat([other[:real], buffers[real:]])  # what counts stays whole
    return {**state, **moved}


def _moved(layout: Layout, flat: Tensor, drawn: torch.Generator, from_zero: float) -> Tensor:
    shares = directions(flat, drawn).abs().clamp(max=2)  # normal numbers: 0.8 on average
    flat = flat.clone()
    pairs = zip(flat.split(layout.sizes), shares.split(layout.sizes), strict=True)
    for i, (values, share) in enumerate(pairs):
        if values.any():
            values.mul_(share.mul_(0.06 * (-1) ** i).add_(1))
        else:
            values.add_(share, alpha=from_zero * (-1) ** i)
    return flat


def engine_step(
    routine: Routine, term: Term, z: Metaparams, step: int, state: State
) -> StepNumbers:
    """Return the engine's numbers of a step, and refuse graphs that begin elsewhere."""
    # No copy: in a run, too, a step reads the same memory when it is run again.
    params = state["params"].detach().requires_grad_()
    frozen = Frozen(routine.model, routine, params)
    with routine.reading(state) as calls, torch.enable_grad(), routine.binding.keeping():
        losses = routine.term_losses(params, term, z, step)
        loss = losses.sum() / routine.batch_size
        left = {name: end.detach().clone() for name, end in calls.left.items()}
        known = [params, *z.values()]
        foreign = loss.requires_grad and foreign_leaves(loss, known)
        (flat,) = torch.autograd.grad(loss, params, materialize_grads=True, allow_unused=True)
    if foreign:
        with routine.reading(state), torch.enable_grad(), routine.binding.keeping():
            refuse_leaves(
                routine.given,
                "loss",
                lambda: routine.term_losses(params, term, z, step).sum(),
                known,
            )
    calls.refuse_written(left)
    frozen.refuse_moved()
    statistics: dict[str, Tensor] = {}
    moved = {n: row.detach() for n, row in routine.moved_buffers(state, calls, step).items()}
    if routine.statistics is not None:
        statistics = routine.statistics.layout.views(moved[BUFFERS])
    gradient = routine.layout.views(routine.hooked(flat, step))
    counted = Counter(call.name for call in calls)
    return StepNumbers(losses.detach(), gradient, statistics, counted, flat, moved)


def updated(routine: Routine, state: State, gradient: Tensor, z: Metaparams, step: int) -> State:
    """Return the tensors that the optimizer moves, and the problem's own state, after an update.

    In shards the gradient is that of one, and its hooks are a part of what is compared.
    """
    rows = routine.update(state, routine.hooked_term(gradient, step), z, step)
    return rows | routine.moved_own(state, rows["params"], z, step)
