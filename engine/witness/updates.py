"""The derivative of an optimizer's update beside a finite difference."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from engine.numerics.determinism import generator
from engine.routine.routine import Routine
from engine.step.products import entering
from engine.types import Metaparams, State
from engine.witness.finite_differences import Curvature, compare_first, directions

_MANY = 1 << 16
"""Numbers from which on an update that treats each one by itself is compared on so many of them."""


def compare_update(
    routine: Routine, rows: State, gradient: Tensor, z: Metaparams, step: int
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

    Cost:
        An update of all numbers, and five of at most 65,536 in float64; of all, where they depend
        on one another.
    """
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

    with torch.no_grad():
        sizes = {
            n: row.norm() for n, row in moved([*rows.values(), gradient, *leaves.values()]).items()
        }
    weights = {
        name: directions(rows[name], drawn) / (size if size > 0 else 1)
        for name, size in sizes.items()
    }

    def function(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([(row * weights[n]).sum() for n, row in moved(values).items()]).sum()

    return compare_first(function, [*rows.values(), gradient, *leaves.values()])


def _updated(
    routine: Routine, rows: Mapping[str, Tensor], gradient: Tensor, z: Metaparams, step: int
) -> State:
    """Return what the optimizer makes of any numbers; hooks only know all of them.

    What the problem keeps for itself moves after the parameters, and is a part of it.
    """
    if routine.hooks or routine.own is not None:
        following = routine.update(rows, gradient, z, step)
        return following | routine.moved_own(dict(rows), following["params"], z, step)
    hyper = routine.hyperparameters(z, step)
    return routine.optimizer.update(dict(rows), gradient, hyper, step)


def _sample(
    routine: Routine, rows: State, gradient: Tensor, z: Metaparams, step: int
) -> tuple[State, Tensor] | None:
    """Return every n-th number, if their update is that of all; None if it is another one."""
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
