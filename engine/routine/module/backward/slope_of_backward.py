"""Whether autograd sees how the backward pass of a custom function moves."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.routine.module.backward.call import Call, recording
from engine.routine.module.backward.judged import as_it_is, double

_MOVED = 16
"""Numbers of each tensor that are moved: few, so that hardly a kink lies between them."""

_DISTANCES = (1e-6, 1e-5, 1e-7)
_DISTANCES_OTHERS = (1e-2, 1e-3, 1e-1)
_LIMIT, _LIMIT_OTHERS = 1e-4, 0.05
_SETTLED = 0.1
"""Quotients tell if they are apart by so much of what they are off, at most."""

Written = Callable[..., Any]
"""A backward pass: takes a context and cotangents."""


def is_cut(
    call: Call, context: Callable[..., Any], written: Written, cotangents: Sequence[Tensor | None]
) -> bool:
    """Say whether difference quotients of a backward pass settle elsewhere than its derivative.

    Args:
        call: Of the function.
        context: Makes one for a traced forward pass.
        written: The backward pass.
        cotangents: Of the results.
    """
    try:
        return _is_cut(call, context, written, (call.args, cotangents), exact=True)
    except Exception:  # somebody's code, which may know one format only
        return _is_cut(call, context, written, (call.args, cotangents), exact=False)


def _is_cut(
    call: Call,
    context: Callable[..., Any],
    written: Written,
    given: tuple[Sequence[Any], Sequence[Tensor | None]],
    *,
    exact: bool,
) -> bool:
    convert = double if exact else as_it_is
    args, cotangents = ([*map(convert, each)] for each in given)
    drawn = torch.Generator().manual_seed(0)
    needs = [*call.needs, *(each is not None for each in cotangents)]
    points = [*args, *cotangents]
    ways = [_way(p, drawn) if n else None for p, n in zip(points, needs, strict=True)]

    def gradients(points: Sequence[Any], *, graph: bool) -> list[Tensor]:
        own = context(call.needs)
        call.again(points[: len(args)], graph=graph, own=not exact, context=own)
        with recording(graph):
            found = written(own, *points[len(args) :])
        found = found if isinstance(found, tuple) else (found,)
        return [each for each in found if isinstance(each, Tensor)]

    leaves = [p.detach().requires_grad_() if n else p for p, n in zip(points, needs, strict=True)]
    with recording(True):
        traced = gradients([_own(leaf) for leaf in leaves], graph=True)
        weights = [torch.randn(g.shape, generator=drawn, dtype=torch.float64) for g in traced]
        total = _weighted(traced, weights)
        moving = [leaf for leaf, n in zip(leaves, needs, strict=True) if n]
        slopes = (
            torch.autograd.grad(total, moving, allow_unused=True, materialize_grads=True)
            if total.requires_grad
            else [torch.zeros_like(leaf) for leaf in moving]
        )
    along = [way for way in ways if way is not None]
    predicted = float(_weighted(slopes, along))
    quotients = []
    for distance in _DISTANCES if exact else _DISTANCES_OTHERS:
        ends = []
        for side in (distance, -distance):
            there = [
                _copy(p) if w is None else p.detach() + side * w.to(p)
                for p, w in zip(points, ways, strict=True)
            ]
            ends.append(float(_weighted(gradients(there, graph=False), weights)))
        quotients.append((ends[0] - ends[1]) / (2 * distance))
    return _tell_otherwise(predicted, quotients, _LIMIT if exact else _LIMIT_OTHERS)


def _tell_otherwise(predicted: float, quotients: Sequence[float], limit: float) -> bool:
    off = [abs(each - predicted) for each in quotients]
    if not all(map(math.isfinite, [predicted, *quotients])):
        return False  # others say where that comes from
    size = max(abs(predicted), *map(abs, quotients))
    if min(off) <= limit * size:
        return False
    apart = min(abs(a - b) for i, a in enumerate(quotients) for b in quotients[:i])
    return apart <= _SETTLED * min(off)


def _own(leaf: Any) -> Any:  # noqa: ANN401 (whatever a function takes)
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _copy(point: Any) -> Any:  # noqa: ANN401 (likewise)
    return point.detach().clone() if isinstance(point, Tensor) else point


def _way(point: Tensor, drawn: torch.Generator) -> Tensor:
    """Return a direction in which few numbers of a tensor move, shape of it."""
    size = point.numel()
    places = torch.randperm(size, generator=drawn)[:_MOVED]
    found = torch.zeros(size, dtype=torch.float64)
    found[places] = torch.randn(len(places), generator=drawn, dtype=torch.float64)
    return found.view(point.shape)


def _weighted(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    terms = [(v * w.to(v)).sum().real.double().cpu() for v, w in zip(values, weights, strict=True)]
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)
