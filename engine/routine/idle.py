"""Parameters that the loss of a step leaves out, such as those of an expert that gets no example.

Torch gives such a parameter no gradient, and its optimizers skip it: no decay, no momentum, and its
own count of steps stands still. In a flat vector its gradient is zero, like that of a parameter
that was used and happens to have a gradient of zero. So the backward pass notes which parts of the
vector a gradient came back to, and where a parameter is used at some steps and left out at others,
the optimizer is given that.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from engine.errors import ConfigurationError, IdleParametersError
from engine.routine.layout import real
from engine.types import Hyperparameters, State

if TYPE_CHECKING:
    from engine.routine.layout import Layout
    from engine.routine.optimizer import Optimizer
    from engine.routine.routine import Routine

SKIPPED = "skipped"
"""Name of a state's vector that counts the steps at which each tensor was left out."""

USED = "used"
"""Name among an optimizer's hyperparameters of what a step used, a truth value a number."""

UPDATES = "updates"
"""Name among them of how often each number was moved before."""

_KNOWN = "idle parameters"  # among what a routine has measured
_SKIPS = "skips idle parameters"
_MOVES = "moves idle parameters"
_PROGRAMS = "programs of the run that skips"

_LINEAR = ("sgd", "nesterov")
"""Optimizers by which a tensor without a gradient keeps its direction."""

_PARALLEL = 1e-3
"""Share of a tensor that may stand across the direction in which it began."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_F = TypeVar("_F", bound=Callable[..., State])


@dataclass(eq=False)
class Used:
    """Which tensors of a flat vector a gradient was made for.

    Attributes:
        found: One truth value a tensor; None until a gradient was made.
        is_open: Whether gradients still count; those of a second derivative do not.
        around: The ``Used`` of an enclosing block, which notes the same.
    """

    found: list[bool] | None = None
    is_open: bool = True
    around: "Used | None" = None

    def see(self, gradients: Sequence[Tensor | None]) -> None:
        """Note what comes back to the parts of the vector in a backward pass."""
        if not self.is_open:
            return
        found = [gradient is not None for gradient in gradients]
        if self.found is not None:
            found = [a or b for a, b in zip(found, self.found, strict=True)]
        self.found = found
        if self.around is not None:
            self.around.see(gradients)


_NOTING: ContextVar[Used | None] = ContextVar("_NOTING", default=None)


class noting_used:
    """Note which parameters the gradients made inside the block are of.

    It is a class and not a generator, which takes twice as long, because every step enters one.
    """

    def __enter__(self) -> Used:
        self._used = Used(around=_NOTING.get())
        self._before = _NOTING.set(self._used)
        return self._used

    def __exit__(self, *_: object) -> None:
        self._used.is_open = False
        _NOTING.reset(self._before)


def watch(parts: Mapping[str, Tensor]) -> None:
    """Note which of the ``parts`` of a flat vector get a gradient, if a block asks for that."""
    used = _NOTING.get()
    if used is None:
        return
    node = next(iter(parts.values())).grad_fn
    while node is not None and "Split" not in node.name():  # below the view of a part
        node = node.next_functions[0][0]
    if node is not None:
        node.register_prehook(used.see)


@dataclass(eq=False)
class _Known:
    """What the steps of a routine used and left out so far, whatever its z."""

    used: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)


def _skipping(routine: "Routine") -> "Routine":
    """Return the same routine, which skips; what is measured of it is kept for the next one."""
    said = replace(routine, skip_idle=True)
    object.__setattr__(said, "_given", routine._given)
    object.__setattr__(said, "programs", routine.programs.setdefault(_PROGRAMS, {}))
    return said


def skipping_never_used(routine: "Routine") -> "Routine | None":
    """Return a run that leaves what no step has used so far as it is, if this one moved it.

    For calls that have carried out all steps and hand the final state to somebody who may read it.
    """
    known: _Known | None = routine.programs.get(_KNOWN)
    if routine.skip_idle is not None or known is None or not known.left_out:
        return None
    return _skipping(routine) if moves_idle(routine) else None


def refuse_moved(routine: "Routine", names: Sequence[str]) -> None:
    """Refuse to move parameters that the first step leaves out and that an output reads.

    Raises:
        IdleParametersError: If the optimizer moves them and the routine does not say what is meant.
    """
    if routine.skip_idle is None and names and moves_idle(routine):
        raise IdleParametersError(
            f"The loss of step 0 leaves out {names[0]!r}, and the output reads it. Torch's "
            f"optimizers skip a parameter without a gradient, and {routine.optimizer.name} would "
            "move it by its decay or its moments. Say skip_idle=True for what torch does, or "
            "skip_idle=False for gradients of zero.",
            settings=("training.skip_idle",),
        )


def used_tensors(routine: "Routine", used: Used, state: State, step: int) -> Tensor | None:
    """Return which tensors a step moves, a truth value each; None for all of them.

    Args:
        routine: The run.
        used: What came back in the backward pass of the step.
        state: s_t, which tells of steps that another process has made.
        step: t.

    Raises:
        IdleParametersError: If tensors are used at some steps and left out at others, the optimizer
            would move them all the same, and the routine does not say what is meant.
    """
    found = used.found
    if found is None or routine.skip_idle is False:
        return None
    if routine.skip_idle:
        return None if all(found) else torch.tensor(found, device=routine.device)
    known: _Known | None = routine.programs.get(_KNOWN)
    if known is None or not all(found) or known.left_out:
        _refuse_unsaid(routine, found, state, step)
    return None


def spread(by_tensor: Tensor, layout: "Layout") -> Tensor:
    """Return one value of each tensor for each of its numbers, shape (params,)."""
    sizes = torch.tensor(layout.sizes, device=by_tensor.device)
    return by_tensor.repeat_interleave(sizes, output_size=layout.size)


def _refuse_unsaid(routine: "Routine", found: Sequence[bool], state: State, step: int) -> None:
    known = routine.programs.setdefault(_KNOWN, _Known())
    for name, is_used in zip(routine.layout.shapes, found, strict=True):
        if not is_used and name not in known.left_out and _was_used(routine, state, name):
            known.used.add(name)
        (known.used if is_used else known.left_out).add(name)
    both = [name for name in routine.layout.shapes if name in known.used & known.left_out]
    if both and moves_idle(routine):
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        raise IdleParametersError(
            f"The loss of some steps up to step {step} leaves out parameters that other steps use: "
            f"{', '.join(map(repr, both[:3]))}{more}. Torch's optimizers skip a parameter without "
            f"a gradient, and {routine.optimizer.name} would move it by its decay or its moments. "
            "Say skip_idle=True for what torch does, or skip_idle=False for gradients of zero.",
            settings=("training.skip_idle",),
        )


def _was_used(routine: "Routine", state: State, name: str) -> bool:
    """Say whether a tensor had a gradient in a step before, as far as a state tells.

    Moments that begin at zero do; and descent by decay alone only shrinks a tensor.
    """
    if routine.optimizer.name in _LINEAR and not routine.shapes_start:
        now = real(routine.layout.views(state["params"].detach())[name]).reshape(-1)
        then = real(routine.trainable[name]).reshape(-1).to(now)
        share = (now @ then) / (then @ then).clamp(min=torch.finfo(now.dtype).tiny)
        return bool((now - share * then).norm() > _PARALLEL * now.norm())
    first = routine.optimizer.init(state["params"].detach())
    rows = {n: row for n, row in first.items() if row.shape == state["params"].shape}
    moments = [n for n, row in rows.items() if n in state and not row.any()]
    if not any(routine.layout.views(state[n].detach())[name].any() for n in moments):
        return False
    start = {"params": state["params"].detach(), **first}
    after = _updated(routine, start, torch.zeros_like(start["params"]))
    return not any(after[n].any() for n in moments)  # a penalty makes moments of its own


def moves_idle(routine: "Routine") -> bool:
    """Say whether an update moves, or forgets of, a parameter whose gradient is zero.

    Where a hyperparameter changes from step to step, or is a metaparameter, one of its values may.
    """
    optimizer, point, steps = routine.optimizer, routine.point(), range(routine.num_steps)
    changing = {n for n, v in optimizer.hyperparameters.items() if not isinstance(v, int | float)}
    for name, kind in routine.metaparameters.items():
        step = next((t for t in steps if kind.enters(t)), None)
        if step is not None:
            changing |= kind.hyperparameters(point[name], step).keys()
    if changing - {"learning_rate"}:
        return True
    if _MOVES not in routine.programs:
        params = routine.layout.flatten(routine.trainable)
        start = {"params": params, **optimizer.init(params)}
        used = _updated(routine, start, torch.ones_like(params))
        after = _updated(routine, used, torch.zeros_like(params))
        moved = start.keys() - ({optimizer.evaluated} - {"params"})  # an average goes on anyway
        routine.programs[_MOVES] = not all(torch.equal(used[n], after[n]) for n in moved)
    return routine.programs[_MOVES]


def _updated(routine: "Routine", state: State, gradient: Tensor) -> State:
    """Return a state after an update at a rate that is not zero, as that of a warm-up may be."""
    hyper = {**routine.optimizer.at(0), "learning_rate": 1.0}
    with torch.no_grad():
        return routine.optimizer.update(state, gradient, hyper, 0)


def leaving_out(update: Callable[..., State]) -> Callable[..., State]:
    """Return an update that leaves numbers as they are where it is told so by ``USED``.

    An optimizer that is made of another one hands both names on, and is marked by ``hands_on``.
    """
    if getattr(update, "hands_on", False):
        return update

    @hands_on
    @wraps(update)
    def moved(state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor) -> State:
        if USED not in hyper:
            return update(state, gradient, hyper, step)
        used, updates = hyper[USED], hyper[UPDATES]
        assert isinstance(used, Tensor)
        assert isinstance(updates, Tensor)
        own = {name: value for name, value in hyper.items() if name not in (USED, UPDATES)}
        # Ones, not zeros, where nothing is moved: of them each update has a finite derivative.
        after = update(state, torch.where(used, gradient, 1.0), own, updates)
        return {
            name: torch.where(used, row.to(state[name].dtype), state[name])
            if row.shape == used.shape
            else row
            for name, row in after.items()
        }

    return moved


def hands_on(update: _F) -> _F:
    """Mark an update that knows what is left out, or hands it on to one that does."""
    update.hands_on = True  # pyright: ignore[reportFunctionMemberAccess] (a mark)
    return update


def update_used(  # noqa: PLR0913 (the parts of an update)
    optimizer: "Optimizer",
    layout: "Layout",
    state: Mapping[str, Tensor],
    gradient: Tensor,
    hyper: Hyperparameters,
    step: int,
    used: Tensor | None,
) -> State:
    """Return the state after an update with a gradient that some tensors have no part in.

    Args:
        optimizer: Moves the parameters.
        layout: Layout of the parameters.
        state: What it moves, and ``SKIPPED``.
        gradient: Shape (params,).
        hyper: Hyperparameters of the optimizer.
        step: t.
        used: Which tensors the gradient is of, a truth value each; None for all.
    """
    own = {name: row for name, row in state.items() if name != SKIPPED}
    skipped = state[SKIPPED]
    used = torch.ones_like(skipped, dtype=torch.bool) if used is None else used
    numbers = spread(used, layout)
    # In float64, as torch's optimizers count: the bias of a moment is a difference to 1.
    updates = step - spread(skipped.detach(), layout).double()
    given = {**hyper, USED: numbers, UPDATES: updates}
    return {
        **optimizer.update(own, torch.where(numbers, gradient, 0.0), given, step),
        SKIPPED: skipped + ~used,
    }


def skipping_idle(
    run: "Callable[Concatenate[Routine, _P], _R]",
) -> "Callable[Concatenate[Routine, _P], _R]":
    """Carry out a run again as torch's optimizers would, if it leaves out parameters at times.

    Only where the routine does not say by ``skip_idle`` what is meant. What a routine was found to
    need is noted among its programs, so that no run is carried out in vain twice.
    """

    @wraps(run)
    def carried_out(routine: "Routine", *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not hasattr(routine, "programs"):  # refused with words of its own
            return run(routine, *args, **kwargs)
        if routine.skip_idle is None and _SKIPS in routine.programs:
            return run(_skipping(routine), *args, **kwargs)
        try:
            return run(routine, *args, **kwargs)
        except IdleParametersError as error:
            if routine.skip_idle is not None:
                raise
            try:
                said = _skipping(routine)
            except ConfigurationError as obstacle:  # e.g. compiled steps; nobody said skip_idle
                raise IdleParametersError(f"{error} {obstacle}", settings=error.settings) from error
        routine.programs[_SKIPS] = True
        return run(said, *args, **kwargs)

    return carried_out
