"""Train many runs that differ only in z or in the seed as one batched run.

A step of a small model takes mostly the time of starting its kernels, and a batched run starts each
of them once. Its sums are taken in another order, so its states equal those of single runs to
rounding, not bit for bit. Use ``together="loop"`` where the bits are needed.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.progress.meter import listening
from engine.replay.at_once import at_once
from engine.replay.interpreter import check_losses
from engine.replay.per_step import PerStep
from engine.routine.idle import noting_used, skipping_idle, used_tensors, watch
from engine.routine.loss_terms import Term
from engine.routine.module.held_module import Params
from engine.routine.module.kept_tensors import keeps_tensors
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import Metaparams, Output, State

_logger = logging.getLogger(__name__)

_NOT_CARRIED = (RuntimeError, NotImplementedError, ValueError)
"""What ``torch.func.vmap`` raises for code that it cannot batch. An error of the code itself is
raised again when the runs are trained one by one."""

_Run = tuple[Routine, Metaparams]

_Trained = tuple[State, Tensor]
"""The final state of a run, and its losses, shape (steps,)."""


class Together(StrEnum):
    """How many runs are trained."""

    AUTO = "auto"
    """As one batched run, if its first step agrees with the loop and is measured to be faster."""

    BATCHED = "batched"
    """As one batched run; what cannot be batched is refused."""

    LOOP = "loop"
    """One after the other; each has the bits of a run by itself."""


@skipping_idle
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
    states = []
    with deterministic():
        for state, losses in _trained(routine, points, seeds, Together(together)):
            check_losses(dict(enumerate(losses)), 0, routine.num_steps)
            states.append(state)
    return states


@skipping_idle
def train_each(
    routine: Routine,
    points: Sequence[Metaparams],
    *,
    seeds: Sequence[int] | None = None,
    together: Together | str = Together.AUTO,
) -> list[State | None]:
    """Train as ``train_many`` does, with None for each run whose loss becomes infinite or NaN.

    The other runs do not depend on a run that diverges.
    """
    with deterministic():
        found = _trained(routine, points, seeds, Together(together))
        return [state if torch.isfinite(losses).all() else None for state, losses in found]


def why_not_together(routine: Routine, points: Sequence[Metaparams]) -> str | None:
    """Say what keeps runs from being trained as one, in a sentence; None if nothing does.

    Step 0 of the first and the last of a part is trained both ways. No clock decides, so that the
    answer is the same wherever it is asked.

    Args:
        routine: What the runs have in common.
        points: z of each run, two at least.
    """
    with deterministic():
        part = next(_parts(len(points), routine))
        return obstacle([(routine, points[i]) for i in part], must_be_faster=False)


def never_together(routine: Routine) -> str | None:
    """Say why runs of a routine are never trained as one, without a step; None if they may be."""
    if routine.own is not None:
        return "the runs have a state of their own."
    if routine.skip_idle:
        return "the runs skip what a step leaves out."
    if routine.statistics is not None:
        return "the model keeps running statistics, or moves other buffers."
    return None


def evaluate_each(
    routine: Routine, output: Output, states: Sequence[State], *, together: Together | str
) -> Tensor:
    """Return an output of each of several states, shape (states,), without a graph.

    A batched evaluation is compared with that of a single state. If ``torch.func.vmap`` cannot
    batch the output, or the numbers differ, the states are evaluated one by one.
    """

    def one(state: State) -> Tensor:
        with torch.no_grad():
            return routine.evaluate(output, state)

    def loop() -> Tensor:
        return torch.stack([one(state) for state in states])

    plain = routine.own is None and routine.statistics is None
    if Together(together) is Together.LOOP or len(states) < 2 or not plain:
        return loop()
    singles: list[float] = []  # numbers, since a tensor would be one that is kept
    if keeps_tensors(lambda: singles.append(float(one(states[0])))):
        return loop()
    try:
        joined = [_stacked([states[i] for i in part]) for part in _parts(len(states), routine)]
        found = torch.cat([vmap(one, randomness="same")(each) for each in joined])
    except _NOT_CARRIED as error:
        _logger.info("%d states are evaluated one by one: %s", len(states), error)
        return loop()
    error = _relative_error(found[0], found.new_tensor(singles[0]))
    return found if error <= torch.finfo(found.dtype).eps ** 0.5 else loop()


def _trained(
    routine: Routine, points: Sequence[Metaparams], seeds: Sequence[int] | None, how: Together
) -> Iterator[_Trained]:
    """Yield what each run came to."""
    pairs = list(zip(runs_of(routine, points, seeds), points, strict=True))
    if how is Together.LOOP or len(pairs) < 2:
        yield from _train_one_by_one(pairs)
        return
    parts = [[pairs[i] for i in part] for part in _parts(len(pairs), routine)]
    together = _go_together(parts, how)
    for part in parts:
        found = _train_batched(part) if together else None
        yield from _train_one_by_one(part) if found is None else found


def _parts(count: int, routine: Routine) -> Iterator[list[int]]:
    """Yield the places of runs that go through a step together, in parts of about one size."""
    for part in torch.arange(count).tensor_split(-(-count // at_once(routine))):
        yield part.tolist()


def runs_of(
    routine: Routine, points: Sequence[Metaparams], seeds: Sequence[int] | None
) -> list[Routine]:
    """Return the routine of each point: the same one, or of its own seed."""
    runs = [
        routine if seed == routine.seed else replace(routine, seed=seed)
        for seed in seeds or [routine.seed] * len(points)
    ]
    if len(runs) != len(points):
        raise ConfigurationError(
            f"There are {len(runs)} seeds for {len(points)} points. Give one for each."
        )
    return runs


def _go_together(parts: Sequence[Sequence[_Run]], how: Together) -> bool:
    """Say whether runs go together, after step 0 of some of them was compared.

    Raises:
        ConfigurationError: If they should and cannot.
    """
    count = sum(map(len, parts))
    found = obstacle(parts[0], must_be_faster=how is Together.AUTO)
    if found is None:
        return True
    if how is Together.BATCHED:
        raise ConfigurationError(
            f"{count} runs cannot be trained as one batched run: {found} Use together='loop'."
        )
    _logger.info("%d runs are trained one by one: %s", count, found)
    return False


def _train_one_by_one(part: Sequence[_Run]) -> Iterator[_Trained]:
    heard = listening()
    for routine, z in part:
        state, losses = routine.initial_state(z), PerStep()
        for step in range(routine.num_steps):
            state, losses[step] = plain_step(routine, state, z, step)
            if heard is not None:
                heard.ran(step, routine.num_steps)
        yield state, _by_step(losses)


def _train_batched(part: Sequence[_Run]) -> list[_Trained] | None:
    """Train runs together and return their results; None if a later step differs from step 0."""
    runs, points = zip(*part, strict=True)
    z, states, losses = _stacked(points), _initial_states(runs, points), PerStep()
    heard = listening()
    for step in range(runs[0].num_steps):
        try:
            states, losses[step] = _batched_step(runs, states, z, step)
        except _NOT_CARRIED as error:
            _logger.info("%d runs are trained one by one, from step %d: %s", len(runs), step, error)
            return None
        if heard is not None:
            heard.ran(step, runs[0].num_steps, len(runs))
    return [
        ({name: rows[i].clone() for name, rows in states.items()}, own)
        for i, own in enumerate(_by_step(losses).T)
    ]


def _by_step(losses: PerStep) -> Tensor:
    """Return all losses in the order of their steps, shape (steps, ...)."""
    return torch.stack(list(losses.values()))


def obstacle(part: Sequence[tuple[Routine, Metaparams]], *, must_be_faster: bool) -> str | None:
    """Train step 0 both ways; say why the runs cannot or should not be batched, if so."""
    runs, points = zip(*part, strict=True)
    never = never_together(runs[0])
    if never is not None:
        return never
    z, states = _stacked(points), _initial_states(runs, points)
    # A program is read by none of torch's modes, and under one it could never be made again.
    eager = replace(runs[0], compile=False) if runs[0].compile else runs[0]
    if keeps_tensors(lambda: plain_step(eager, eager.initial_state(points[0]), points[0], 0)):
        return "the loss, the model or the update keeps tensors of a call for itself."
    try:
        batched_seconds, (following, _) = _timed(lambda: _batched_step(runs, states, z, 0))
    except _NOT_CARRIED as error:
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
    # Runs of one seed are one routine, which draws its batch once for all of them.
    drawing = [routine] if all(run is routine for run in runs) else runs
    gradient, loss = None, None
    with noting_used() as seen:
        for terms in zip(*(run.terms(step) for run in drawing), strict=True):
            share, value = _batched_gradient(routine, states["params"], terms, z, step)
            if routine.hooks_each_shard:
                shard = terms[0].shard
                share = vmap(partial(routine.hooked_term, step=step, shard=shard))(share)
            gradient = share if gradient is None else gradient + share
            loss = value if loss is None else loss
    used_tensors(routine, seen, {name: rows[0] for name, rows in states.items()}, step)

    def update(state: State, gradient: Tensor, z: Metaparams) -> State:
        return routine.update(state, gradient, z, step)

    assert loss is not None  # a step has a batch
    assert gradient is not None
    with torch.no_grad():
        return vmap(update)(states, gradient, z), loss


def _batched_gradient(
    routine: Routine, params: Tensor, terms: Sequence[Term], z: Metaparams, step: int
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a term in each run, shape (runs, params), and its losses.

    No run's loss depends on another's parameters, so one backward pass through their sum makes the
    gradients of all; outside of ``vmap``, which would hand on each of its kernels by itself.
    """
    first = terms[0]
    shared = all(torch.equal(term.indices, first.indices) for term in terms)
    indices = first.indices if shared else torch.stack([term.indices for term in terms])

    def loss(params: Params, z: Metaparams, indices: Tensor) -> Tensor:
        return routine.term_loss(params, first.at(indices), z, step)

    batched = vmap(loss, in_dims=(0, 0, None if shared else 0), randomness="same")
    leaf = params.detach().requires_grad_()
    with torch.enable_grad(), routine.binding.keeping():
        losses = batched(_views(routine, leaf), z, indices)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return gradient, losses.detach()


def _views(routine: Routine, params: Tensor) -> dict[str, Tensor]:
    """Name the parts of several flat vectors, shape (runs, params), without a copy."""
    layout = routine.layout
    parts = params.split_with_sizes(layout.sizes, dim=1)
    watch(dict(zip(layout.shapes, parts, strict=True)))
    return layout.by_name(parts)


def _stacked(points: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([point[name] for point in points]) for name in points[0]}


def _initial_states(runs: Sequence[Routine], points: Sequence[Metaparams]) -> State:
    return _stacked([run.initial_state(z) for run, z in zip(runs, points, strict=True)])


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=torch.finfo().tiny))


def _timed(function: Callable[[], tuple[State, Tensor]]) -> tuple[float, tuple[State, Tensor]]:
    """Time the second of two calls: the first one warms up."""
    function()
    started = time.perf_counter()
    result = function()
    float(result[1].sum())  # waits for the device
    return time.perf_counter() - started, result
