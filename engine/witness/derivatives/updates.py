"""Compares the derivative of an optimizer's update with a finite difference."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.errors import ConfigurationError, EngineError, WitnessError
from engine.numerics.determinism import generator
from engine.routine.diagnosis import user_code_error
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.optimizer import Optimizer
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.products import entering
from engine.types import Metaparams, State
from engine.witness.finite_differences import Curvature, compare_first, directions

_Value = TypeVar("_Value")

_MANY = 1 << 16
"""Numbers from which on an update that treats each one by itself is compared on so many of them."""

_FIRST = 6
"""Steps from the beginning at which an update that a user wrote is compared."""


def compare_update(
    routine: Routine,
    rows: State,
    gradient: Tensor,
    z: Metaparams,
    step: int,
    *,
    moves: Mapping[str, float],
) -> Curvature:
    """Compare the derivative of an update where moments are not zero, in float64.

    Where the update of a sample of the numbers is the same as that of all of them, at the very
    point of the comparison, it does not depend on the others, and the sample is compared.

    Args:
        routine: The run.
        rows: What the optimizer moves; its moments should not be zero.
        gradient: Shape (params,), in the format of the rows.
        z: Metaparameters.
        step: t.
        moves: How far an update moves each of the rows, about; each counts by its own size.

    Cost:
        Two updates and the derivative of one, of at most 65,536 numbers in float64, after two of
        which one is of all; of all numbers, where they depend on one another.
    """
    # Another gradient than that which the moments were made of: who keeps the last one, and takes
    # their difference, would find none.
    gradient = gradient * (1 + 0.2 * directions(gradient, generator(0, "another gradient")))
    depends = bool(routine.hooks) or routine.own is not None
    sample = None if depends else _sample(routine, rows, gradient, z, step)
    if sample is not None:
        rows, gradient = sample
    rows, gradient = {name: _exact(row) for name, row in rows.items()}, _exact(gradient)
    leaves = {name: _exact(tensor) for name, tensor in entering(routine, z, step).items()}
    fixed = {name: _exact(tensor) for name, tensor in z.items()}
    names, drawn = [*rows, "gradient", *leaves], generator(0, "update")

    def moved(values: Sequence[Tensor]) -> State:
        given = dict(zip(names, values, strict=True))
        point = {**fixed, **{name: given[name] for name in leaves}}
        before = {name: given[name] for name in rows}
        following = _updated(routine, before, given["gradient"], point, step)
        # How far, because a small rate would leave nothing of all else beside where from.
        return {name: row - before[name] for name, row in following.items()}

    weights = {name: directions(row, drawn) / (moves[name] or 1) for name, row in rows.items()}

    def function(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([(row * weights[n]).sum() for n, row in moved(values).items()]).sum()

    return compare_first(function, [*rows.values(), gradient, *leaves.values()])


def refuse_cut_start(routine: Routine, z: Metaparams) -> None:
    """Refuse moments, or a state of one's own, whose start is made of the parameters without graph.

    Of a run whose metaparameters shape the parameters that it starts from.

    Raises:
        WitnessError: Names what is cut.

    Cost:
        Nothing in other runs; in these the start twice, and its derivative.
    """
    shaping = {name: z[name] for name, kind in routine.metaparameters.items() if kind.shapes_start}
    if not shaping:
        return
    coarse, drawn = routine.layout.dtype != torch.float64, generator(0, "start")
    weights = {
        name: directions(row, drawn) / (float(row.norm()) or 1)
        for name, row in routine.initial_state(z).items()
        if name not in ("params", BUFFERS) and row.is_floating_point()
    }
    for name, weight in weights.items():

        def value(leaves: Sequence[Tensor], name: str = name, weight: Tensor = weight) -> Tensor:
            start = routine.initial_state({**z, **dict(zip(shaping, leaves, strict=True))})
            return (start[name] * weight).sum() + 0 * start["params"].sum()

        if compare_first(value, [*shaping.values()], coarse=coarse).is_wrong:
            what = "the state of the run" if name == OWN else f"{name!r} of the optimizer"
            raise WitnessError(
                f"The start of {what} is made of the parameters, and a part of it is cut out of "
                f"the graph, so the metagradient of {', '.join(map(repr, shaping))} would miss "
                "it. Look for a detach(), .data, item() or no_grad() in the function that makes "
                "the start."
            )


def refuse_misfit(routine: Routine, z: Metaparams) -> None:
    """Refuse a user's own optimizer that fails, or returns what is no state.

    Args:
        routine: The run.
        z: Metaparameters.

    Raises:
        ConfigurationError: Says what it returned, and what it should.

    Cost:
        An update without a graph; nothing for the engine's own.
    """
    optimizer = routine.optimizer
    if is_shipped(optimizer):
        return
    name, params = repr(optimizer.name), routine.layout.flatten(routine.trainable)
    moments: Any = _call_update(f"init of optimizer {name}", lambda: optimizer.init(params.clone()))
    _refuse_other_than_tensors(f"init of optimizer {name}", moments)
    state = {"params": params, **moments}
    given = {key: row.clone() for key, row in state.items()}
    hyper = routine.hyperparameters(z, 0)
    gradient = torch.full_like(params, 1e-3)
    with torch.no_grad():
        found: Any = _call_update(
            f"update of optimizer {name}", lambda: optimizer.update(given, gradient, hyper, 0)
        )
    _refuse_other_than_tensors(f"update of optimizer {name}", found)
    if found.keys() != state.keys():
        raise ConfigurationError(
            f"The optimizer {name} maps {sorted(state)} to {sorted(found)} at step 0. Return the "
            "same names that init returned, and params."
        )
    for key, row in state.items():
        if (found[key].shape, found[key].dtype) != (row.shape, row.dtype):
            raise ConfigurationError(
                f"The update of optimizer {name} maps {key!r}, which is {row.dtype} of shape "
                f"{tuple(row.shape)}, to {found[key].dtype} of shape {tuple(found[key].shape)}. "
                "Leave both as they are."
            )


def _call_update(what: str, call: Callable[[], _Value]) -> _Value:
    try:
        return call()
    except EngineError:
        raise
    except Exception as error:  # of a user's own code
        raise user_code_error(f"The {what} fails", error, _UPDATE) from error


_UPDATE = (
    "init(params) returns a dict of tensors, and update(state, gradient, hyperparameters, step) "
    "the next state"
)


def _refuse_other_than_tensors(what: str, found: Any) -> None:  # noqa: ANN401 (whatever it returned)
    if isinstance(found, Mapping):
        wrong = next((value for value in found.values() if not isinstance(value, Tensor)), None)
        if wrong is None:
            return
        shown = f"a dict with a {type(wrong).__name__}"
    else:
        shown = f"a {type(found).__name__}"
    raise ConfigurationError(f"The {what} returned {shown}. {_UPDATE[0].upper()}{_UPDATE[1:]}.")


def steps_to_compare(routine: Routine, step: int) -> list[int]:
    """Return the steps at which an update is compared: of one that a user wrote, several.

    It may do something else at first, at the end, or every so many steps.
    """
    if is_shipped(routine.optimizer):
        return [step]
    last = routine.num_steps - 1
    asked = {step, *range(_FIRST), last // 4, last // 2, 3 * last // 4, last}
    return sorted(each for each in asked if each <= last)


def is_shipped(optimizer: Optimizer) -> bool:
    """Say whether an update is one of the engine's, and not made of another one."""
    update = optimizer.update
    module = getattr(update, "__module__", None) or ""
    held = [cell.cell_contents for cell in getattr(update, "__closure__", None) or ()]
    if isinstance(update, MethodType):  # of an optimizer of several parts
        held += vars(update.__self__).values()
    inner = [each for each in tree_leaves(held) if isinstance(each, Optimizer)]
    return module.startswith("engine.") and all(map(is_shipped, inner))


def _updated(
    routine: Routine, rows: Mapping[str, Tensor], gradient: Tensor, z: Metaparams, step: int
) -> State:
    """Return the optimizer's update of arbitrary numbers; hooks get all of them at once.

    What the problem keeps for itself moves after the parameters, and is a part of it.
    """
    if routine.hooks or routine.own is not None or routine.skip_idle:
        following = routine.update(rows, routine.hooked_term(gradient, step), z, step)
        return following | routine.moved_own(dict(rows), following["params"], z, step)
    hyper = routine.hyperparameters(z, step)
    return routine.optimizer.update(dict(rows), gradient, hyper, step)


def _sample(
    routine: Routine, rows: State, gradient: Tensor, z: Metaparams, step: int
) -> tuple[State, Tensor] | None:
    """Return every n-th number if its update does not depend on the others, else None."""
    size = gradient.numel()
    if size <= _MANY:
        return None
    every = -(-size // _MANY)
    few = {name: row[::every].clone() if row.numel() == size else row for name, row in rows.items()}
    part = gradient[::every].clone()
    with torch.no_grad():
        whole = _updated(routine, rows, gradient, z, step)
        with suppress(RuntimeError, ValueError, TypeError, IndexError, KeyError):
            alone = _updated(routine, few, part, z, step)
            wanted = {n: row[::every] if row.numel() == size else row for n, row in whole.items()}
            rounding = 20 * torch.finfo(gradient.dtype).eps
            if all(torch.allclose(alone[n], wanted[n], rounding, 0) for n in wanted):
                return few, part
    return None


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()
