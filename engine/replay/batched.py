"""Trains many runs that differ only in z or in the seed as one run with a leading axis.

A step of a small model is mostly the cost of starting its kernels, which does not grow with the
number of runs. The sums of a batched kernel run in another order, so states agree with those of
the runs one by one to rounding and not bit for bit; whoever needs the bits asks for the loop.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.progress.meter import listening
from engine.replay.interpreter import PerStep, check_losses
from engine.routine.loss_terms import Term
from engine.routine.routine import Routine
from engine.step.products import join
from engine.step.step import plain_step
from engine.types import Metaparams, State

_logger = logging.getLogger(__name__)


class Together(StrEnum):
    """How many runs are trained."""

    AUTO = "auto"
    """As one batched run where that agrees with the loop and is measured to be faster."""

    BATCHED = "batched"
    """As one batched run; what cannot be batched is refused."""

    LOOP = "loop"
    """One after the other, with the bits that each has by itself."""


def train_many(
    routine: Routine,
    points: Sequence[Metaparams],
    *,
    seeds: Sequence[int] | None = None,
    together: Together | str = Together.AUTO,
) -> list[State]:
    """Train one run for each point, all T steps, and return their final states.

    Args:
        routine: What the runs have in common.
        points: z of each run.
        seeds: Seed of each run; the routine's own by default. The initial state does not depend
            on it, the order of examples does.
        together: ``auto``, ``batched`` or ``loop``. With ``auto`` a clock decides, so the last
            digits may differ from one call to the next.

    Returns:
        s_T of each run, in the order of ``points``.

    Raises:
        ConfigurationError: If ``together`` is ``batched`` and the runs cannot be batched.
        NonFiniteError: If a loss is infinite or NaN; names the step.

    Cost:
        Memory of a step grows with the number of runs when they are batched.
    """
    runs = [
        routine if seed == routine.seed else replace(routine, seed=seed)
        for seed in seeds or [routine.seed] * len(points)
    ]
    if len(runs) != len(points):
        raise ConfigurationError(
            f"There are {len(runs)} seeds for {len(points)} points. Give one for each."
        )
    how = Together(together)
    with deterministic():
        if how is not Together.LOOP and len(runs) > 1:
            obstacle = _obstacle(runs, points, must_be_faster=how is Together.AUTO)
            if obstacle is None:
                return _train_batched(runs, points)
            if how is Together.BATCHED:
                raise ConfigurationError(
                    f"{len(runs)} runs cannot be trained as one batched run: {obstacle} "
                    "Use together='loop'."
                )
            _logger.info("%d runs are trained one by one: %s", len(runs), obstacle)
        return [_train(run, z) for run, z in zip(runs, points, strict=True)]


def _train(routine: Routine, z: Metaparams) -> State:
    state, losses, heard = routine.initial_state(z), PerStep(), listening()
    for step in range(routine.num_steps):
        state, losses[step] = plain_step(routine, state, z, step)
        if heard is not None:
            heard.ran(step, routine.num_steps)
    check_losses(losses, 0, routine.num_steps)
    return state


def _train_batched(runs: Sequence[Routine], points: Sequence[Metaparams]) -> list[State]:
    z, states, losses = _stacked(points), _initial_states(runs, points), PerStep()
    heard = listening()
    for step in range(runs[0].num_steps):
        states, loss = _batched_step(runs, states, z, step)
        losses[step] = loss.sum()  # not finite as soon as one is not
        if heard is not None:
            heard.ran(step, runs[0].num_steps, len(runs))
    check_losses(losses, 0, runs[0].num_steps)
    return [{name: rows[i].clone() for name, rows in states.items()} for i in range(len(runs))]


def _obstacle(
    runs: Sequence[Routine], points: Sequence[Metaparams], *, must_be_faster: bool
) -> str | None:
    """Train step 0 both ways; say why the runs cannot or should not be batched, if so."""
    if runs[0].own is not None:
        return "the runs have a state of their own."
    if runs[0].statistics is not None:
        return "the model keeps running statistics of batch normalization."
    z, states = _stacked(points), _initial_states(runs, points)
    try:
        batched_seconds, (following, _) = _timed(lambda: _batched_step(runs, states, z, 0))
    except (RuntimeError, NotImplementedError, ValueError) as error:  # what vmap cannot carry
        # An error of the step itself comes again in the loop.
        return f"torch.func.vmap stopped at {str(error).splitlines()[0]}"
    for i in (0, len(runs) - 1):  # runs of two seeds draw other noise, so the last one is compared
        single_seconds, (single, _) = _timed(
            lambda i=i: plain_step(runs[i], runs[i].initial_state(points[i]), points[i], 0)
        )
        for name, row in single.items():
            error = _relative_error(following[name][i], row)
            if error > torch.finfo(row.dtype).eps ** 0.5:
                return (
                    f"{name!r} of run {i} differs by {error:.1e} after step 0. Noise that is drawn "
                    "inside the model, and whatever couples examples, cannot be batched."
                )
    if must_be_faster and batched_seconds > len(runs) * single_seconds:
        return (
            f"a batched step takes {1e3 * batched_seconds:.1f} ms, and {len(runs)} steps one by "
            f"one {1e3 * len(runs) * single_seconds:.1f} ms."
        )
    return None


def _batched_step(
    runs: Sequence[Routine], states: State, z: Metaparams, step: int
) -> tuple[State, Tensor]:
    """Train one step of all runs: ``plain_step`` with a leading axis."""
    routine = runs[0]
    gradient, loss = torch.zeros_like(states["params"]), None
    for terms in zip(*(run.terms(step) for run in runs), strict=True):
        share, value = _batched_gradient(routine, states["params"], terms, z, step)
        gradient = gradient + share
        loss = value if loss is None else loss

    def update(state: State, gradient: Tensor, z: Metaparams) -> State:
        return routine.update(state, gradient, z, step)

    assert loss is not None  # a step has a batch
    return vmap(update)(states, gradient, z), loss


def _batched_gradient(
    routine: Routine, params: Tensor, terms: Sequence[Term], z: Metaparams, step: int
) -> tuple[Tensor, Tensor]:
    first = terms[0]
    shared = all(torch.equal(term.indices, first.indices) for term in terms)
    indices = first.indices if shared else torch.stack([term.indices for term in terms])

    def loss(params: Tensor, z: Metaparams, indices: Tensor) -> Tensor:
        return routine.term_loss(params, first.at(indices), z, step)

    batched = vmap(grad_and_value(loss), in_dims=(0, 0, None if shared else 0), randomness="same")
    with torch.no_grad(), routine.binding.kept():
        return batched(params, z, indices)


def _stacked(points: Sequence[Metaparams]) -> Metaparams:
    return {name: torch.stack([point[name] for point in points]) for name in points[0]}


def _initial_states(runs: Sequence[Routine], points: Sequence[Metaparams]) -> State:
    return join([run.initial_state(z) for run, z in zip(runs, points, strict=True)])


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=torch.finfo().tiny))


def _timed(function: Callable[[], tuple[State, Tensor]]) -> tuple[float, tuple[State, Tensor]]:
    """Time the second of two calls: the first one warms up."""
    function()
    started = time.perf_counter()
    result = function()
    float(result[1].sum())  # waits for the device
    return time.perf_counter() - started, result
