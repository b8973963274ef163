"""Compares the derivative by metaparameters that pass through the loss with a finite difference.

Inputs, weights of tokens and numbers that a loss is handed pass through code of the user: a
normalization under ``no_grad()``, a rounding, a ``float()``. The gradient of a step is right then,
and so is its derivative by the parameters; that by the metaparameter is not.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.metaparameters.base import Metaparameter
from engine.numerics.determinism import generator
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.finite_differences import Function, compare_first, directions, not_settled
from engine.witness.lines import cuts, first_line
from engine.witness.twins import exact, exact_few, exact_state

_FEW = 8
"""Examples of a step that are looked at, and as many of those that a metaparameter chooses."""


def refuse_cut_entries(routine: Routine, state: State, z: Metaparams, step: int) -> str:
    """Refuse a metaparameter whose way into the gradient is cut out of the graph.

    Args:
        routine: The run.
        state: Where.
        z: Metaparameters.
        step: At which step one is looked at, if it enters there; else at its first one.

    Returns:
        What was not compared, and why; mostly empty.

    Raises:
        WitnessError: Names the metaparameter, and the lines that cut.

    Cost:
        For each metaparameter that passes through code of the user: the gradient of few examples in
        float64 with its graph, its derivative, and a gradient more. Nothing for those that only
        weigh losses, or that the optimizer reads.
    """
    notes: list[str] = []
    for name, kind in routine.metaparameters.items():
        if not _passes_through(kind):
            continue
        if kind.shapes_start:
            notes.append(_refuse_cut_start(routine, z, name))
        at = next((at for at in (step, *range(routine.num_steps)) if kind.enters(at)), None)
        if at is not None:
            notes.append(_refuse_cut_entry(routine, state, z, name, at))
    return " ".join(filter(None, notes))


def _passes_through(kind: Metaparameter) -> bool:
    """Say whether other code than the engine's reads a metaparameter before the loss is made."""
    own = not type(kind).__module__.startswith("engine.")
    hooks = ("batch", "loss_arguments")
    return own or any(getattr(type(kind), h) is not getattr(Metaparameter, h) for h in hooks)


def _refuse_cut_start(routine: Routine, z: Metaparams, name: str) -> str:
    what = f"The derivative of the initial parameters by {name!r}"
    weights = directions(routine.layout.flatten(routine.trainable), generator(0, "entries"))

    def start(leaves: Sequence[Tensor]) -> Tensor:
        moved = {**z, name: leaves[0].to(z[name].dtype)}
        return (routine.initial_state(moved)["params"] * weights).double().sum()

    is_coarse = z[name].dtype != torch.float64
    try:
        found = compare_first(start, [z[name].detach()], coarse=is_coarse)
    except Exception as error:  # of code of the user
        return f"{what} was not compared: {first_line(error)}"
    if not found.is_wrong:
        return "" if is_coarse else not_settled(what, found)
    raise WitnessError(
        f"The initial parameters that metaparameter {name!r} makes have a derivative that "
        "is off from finite differences: a part of it is cut out of the graph. Compute "
        "them by differentiable operations in initial(): no detach(), .data or no_grad()."
    )


def _refuse_cut_entry(routine: Routine, state: State, z: Metaparams, name: str, step: int) -> str:
    ways: list[tuple[str, Callable[[State, _Stepped, Tensor], Function]]] = [
        (f"The way of metaparameter {name!r} into the gradient of the loss", _slope)
    ]
    if routine.statistics is not None and routine.statistics.real:
        moves = f"The way of metaparameter {name!r} into the buffers that the forward pass moves"
        ways.append((moves, _moved))
    notes = [_refuse_cut_way(routine, state, z, name, step, *way) for way in ways]
    return " ".join(filter(None, notes))


def _refuse_cut_way(  # noqa: PLR0913 (where, and what is looked at)
    routine: Routine, state: State, z: Metaparams, name: str, step: int, what: str, made: "_Made"
) -> str:
    try:
        twin, read = exact_few(routine), exact_state(state)
        point = {n: exact(value) for n, value in z.items()}
        term = _few(twin.first_piece(next(twin.terms(step))), routine.metaparameters[name])
        step_of = _step(twin, read, point, name, term, step)
        weights = directions(read["params"], generator(0, "entries"))
        function = made(read, step_of, weights)
        ones = torch.ones_like(point[name])
        with twin.binding.keeping():
            found = compare_first(function, [ones])
    except Exception as error:  # e.g. a loss that insists on float32
        return f"{what} was not compared: {first_line(error)}"
    if not found.is_wrong:
        return not_settled(what, found)
    lines: list[str] = []
    with suppress(Exception), twin.binding.keeping():  # which would hide what is wrong
        lines = cuts(lambda: step_of(read["params"], ones.requires_grad_()).loss)
    where = f" by {', '.join(lines)}" if lines else ""
    raise WitnessError(
        f"{what} has a derivative "
        f"that is off by {found.error:.1e} from finite differences: a part of it is cut out of the "
        f"graph{where}. Compute all that depends on it by differentiable operations, in the "
        "loss, in augment and where a kind of your own makes a batch: no no_grad(), item(), "
        "float() or numpy(), and no rounding. What has no gradient in a step is "
        "engine.stop_gradient(x) in place of x.detach()."
    )


@dataclass(frozen=True)
class _Step:
    """Loss of a step, a scalar, and what it leaves in buffers that have a derivative, if any."""

    loss: Tensor
    left: Tensor | None


_Stepped = Callable[[Tensor, Tensor], _Step]
_Made = Callable[[State, _Stepped, Tensor], Function]


def _slope(read: State, step_of: _Stepped, weights: Tensor) -> Function:
    def slope(leaves: Sequence[Tensor]) -> Tensor:
        with torch.enable_grad():
            params = read["params"].detach().requires_grad_()
            value = step_of(params, leaves[0]).loss
            (gradient,) = torch.autograd.grad(value, params, create_graph=True)
        return gradient @ weights

    return slope


def _moved(read: State, step_of: _Stepped, _weights: Tensor) -> Function:
    def moved(leaves: Sequence[Tensor]) -> Tensor:
        with torch.enable_grad():
            left = step_of(read["params"].detach().requires_grad_(), leaves[0]).left
            assert left is not None  # asked of runs that have buffers
            return left @ directions(left.detach(), generator(0, "entries"))

    return moved


def _few(term: Term, kind: Metaparameter) -> Term:
    """Return a term over some of its examples, and some that a metaparameter chooses."""
    indices = term.indices[:_FEW].tolist()
    chosen = getattr(kind, "chosen", None)
    if isinstance(chosen, Tensor):
        indices += [int(i) for i in chosen[:_FEW] if int(i) not in indices]
    return term.at(torch.tensor(indices))


def _step(
    twin: Routine, read: State, point: Metaparams, name: str, term: Term, step: int
) -> _Stepped:
    """Return the step of a term as a function of parameters, and of ones in z's place.

    Every number of z moves by a share of the root of their mean square, zeros as well.
    """
    start = point[name]
    size = float(start.norm()) / max(start.numel(), 1) ** 0.5 or 1.0

    def step_at(params: Tensor, ones: Tensor) -> _Step:
        moved, rows = {**point, name: start + size * (ones - 1)}, read
        if ones.requires_grad and BUFFERS in read:  # as where a step is reversed
            rows = {**read, BUFFERS: read[BUFFERS].detach().requires_grad_()}
        with torch.enable_grad(), twin.reading(rows) as calls:
            loss = twin.term_loss(params, term, moved, step)
            if twin.statistics is None:
                return _Step(loss, None)
            left = twin.moved_buffers(rows, calls, step)[BUFFERS][: twin.statistics.real]
            return _Step(loss, left)

    return step_at
