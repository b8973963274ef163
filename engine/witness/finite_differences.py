"""Compares derivatives with finite differences along one direction, in float64.

Some operations of torch have a second derivative that is wrong and gives no error, and a hook that
acts on a gradient acts once more on what is pulled through it. Two gradients know nothing of that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from engine.numerics.determinism import generator
from engine.routine.module.stop_gradient import whole_derivatives
from engine.step.pulls import gradients_of, pulls

NEAR = 1e-7
"""Distance of the one-sided difference, which is tried first because it costs half."""

FAR = 1e-3
"""The same of what is besides, as weights are, in which gradients are mostly linear."""

DISTANCES = (1e-5, 1e-6, 1e-4)
"""Of the central ones, relative to the parameters; the first that agrees is enough."""

COARSE = (1e-2, 3e-3, 3e-2)
"""The same of a function that computes in float32, where nearer ones would be roundings."""

COARSE_LIMIT = 0.05
"""Of the relative error there."""

LIMIT, FIRST_LIMIT = 1e-5, 1e-6
"""Of the relative error of a second derivative, and of a first one, in float64: 1e-8 is usual of a
central difference, 1e-7 of a one-sided one."""

ROUNDED_LIMIT = 3e-5
"""Of a first derivative that was made in float32, beside a difference in float64."""

_ROUNDED = 8
"""Units in the last place that a value may be off; each difference is as much off, by distance."""

_PERIOD = 1021
"""Directions repeat after so many numbers: drawing millions would cost more than a step."""

Function = Callable[[Sequence[Tensor]], Tensor]
"""Maps leaves to a scalar."""


@dataclass(frozen=True)
class Curvature:
    """One product of a derivative, twice.

    Attributes:
        error: Relative error at the best distance.
        is_wrong: Whether finite differences agree with one another and not with the product.
        slopes: The first derivative by each leaf.
        products: The second one, times ``weights``, by each leaf; none of a first derivative.
        in_format: By how much they are off in the run's own number format; see ``error_in_format``.
    """

    error: float
    is_wrong: bool
    slopes: list[Tensor] = field(default_factory=list, repr=False)
    products: list[Tensor] = field(default_factory=list, repr=False)
    in_format: float = 0.0


def not_settled(what: str, found: Curvature) -> str:
    """Say that a first derivative was not compared, if differences do not settle; else nothing.

    Args:
        what: Its subject, at the beginning of a sentence.
        found: What ``compare_first`` returned, and is not wrong.
    """
    if found.error <= FIRST_LIMIT:
        return ""
    return (
        f"{what} was not compared: finite differences do not settle, as where it has kinks, bends "
        "too strongly (many normalizations of few numbers each) or is not finite."
    )


def compare(  # noqa: PLR0913 (a comparison, and what is known of the run)
    function: Function,
    leaves: Sequence[Tensor],
    *,
    everywhere: bool = True,
    moved: Sequence[Tensor] | None = None,
    besides: Sequence[Tensor] = (),
    coarse: bool = False,
    coarse_limit: float = COARSE_LIMIT,
    seed: int = 0,
) -> Curvature:
    """Compare the second derivative of a scalar function along one direction.

    Args:
        function: Differentiable twice; of the leaves, and of what is besides.
        leaves: Where, in float64.
        besides: Other leaves, by which the derivative of the gradient is compared too, by itself.
        everywhere: Whether numbers are moved whose derivative is 0. A run does not move them, and
            torch's second derivative by some (the row of an embedding that stands for padding) is
            0 as well, whatever the function.
        moved: Truth values in the shapes of the leaves: which numbers the run has moved so far.
            They are moved here too: what a step holds constant may have been trained before.
        coarse: Whether it computes in float32, and the leaves are in it too; it then sees only
            what is off by more than some percent.
        coarse_limit: Limit of the relative error there.
        seed: Seed of the direction and of the weights of the gradient.

    Cost:
        The function with its graph and its product, and one gradient more, or two with something
        besides; where that does not agree, two gradients for each of up to three distances.
    """
    drawn = generator(seed, "curvature")
    rows, others = ([tensor.detach() for tensor in each] for each in (leaves, besides))
    weights = [directions(row, drawn) for row in rows]
    direction = [directions(row, drawn).mul_(_scale(row)) for row in rows]
    slopes, pulled = _pulled(function, [*rows, *others], weights)
    products, by_others = pulled[: len(rows)], pulled[len(rows) :]
    if not everywhere:
        told = [g != 0 for g in slopes]
        if moved is not None:
            told = [a | b for a, b in zip(told, moved, strict=True)]
        direction = [v.mul_(each) for v, each in zip(direction, told, strict=True)]

    def slope(shift: float) -> float:
        there = _shifted(rows, direction, shift)
        return _weighted(_gradient(function, there, others), weights)

    def slope_besides(shift: float) -> float:
        there = _shifted(others, along, shift)
        return _weighted(_gradient(function, [*map(Tensor.clone, rows)], there), weights)

    along = [directions(row, drawn) for row in others]
    here = None if coarse else _weighted(slopes, weights)
    told_by = (coarse_limit, slopes, COARSE) if coarse else (LIMIT, slopes, DISTANCES)
    found = _judge(products, direction, here, slope, *told_by)
    if others and not found.is_wrong:
        found_besides = _judge(by_others, along, here, slope_besides, *told_by, FAR)
        found = found_besides if found_besides.is_wrong else found
    return replace(found, products=products)


def error_in_format(
    function: Function, leaves: Sequence[Tensor], exact: Sequence[Tensor], *, everywhere: bool
) -> float:
    """Return by how much products in a run's own number format are wrong, if they are.

    What a module cuts in float32 alone is seen by no difference in float64.

    Args:
        function: Function in the run's own format.
        leaves: Where, in that format.
        exact: The products of ``compare`` there, by its first seed.
        everywhere: As for ``compare``.

    Returns:
        The relative distance from ``exact``; 0 where it is no larger than what rounding of the
        leaves makes, as where they stand at a kink, or where differences in the own format agree:
        then the function is another one there, as one that draws other numbers.

    Cost:
        The function with its graph and its product; where they differ, twice more and what
        ``compare`` takes.
    """
    drawn = generator(0, "curvature")
    rows = [tensor.detach() for tensor in leaves]
    weights = [directions(row.double(), drawn).to(row.dtype) for row in rows]
    _, found = _pulled(function, rows, weights)
    off = _apart(found, exact)
    if not COARSE_LIMIT < off < float("inf"):
        return 0.0
    for distance in _ROUNDINGS:
        moved = [row * (1 + distance * directions(row, drawn)) for row in rows]
        _, again = _pulled(function, moved, weights)
        if not _apart(again, found) <= 0.1 * off:
            return 0.0
    options: dict[str, Any] = {"everywhere": everywhere, "coarse": True, "coarse_limit": _FINER}
    is_wrong = any(compare(function, leaves, seed=seed, **options).is_wrong for seed in range(2))
    return off if is_wrong else 0.0


def _apart(products: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    pairs = zip(products, others, strict=True)
    apart = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    whole = sum(float(b.double().square().sum()) for b in others)
    return (apart / max(whole, torch.finfo(torch.float64).tiny)) ** 0.5


_FINER = 0.01
"""Of the relative error along one direction, where products are apart as vectors already."""

_ROUNDINGS = (3e-7, 3e-6)
"""By how much numbers are moved, relative to themselves, to see what their rounding makes."""


def compare_first(
    function: Function, leaves: Sequence[Tensor], seed: int = 0, *, coarse: bool = False
) -> Curvature:
    """Compare the first derivative of a scalar function along one direction.

    Each number moves relative to itself, so that what is zero stays so.

    Args:
        function: Differentiable once.
        leaves: Where, in float64.
        seed: Seed of the direction.
        coarse: Whether it computes in float32, and the leaves are in it too; it then sees only
            what is off by more than some percent.

    Cost:
        The function with its graph, and once without; where that does not agree, twice for each
        of up to three distances.
    """
    rows = [tensor.detach() for tensor in leaves]
    direction = _own_direction(rows, seed)
    moving = [row.detach().requires_grad_() for row in rows]
    with torch.enable_grad():
        value = function(moving)
        with whole_derivatives():
            slopes = _derivatives(value, moving)

    def shifted(shift: float) -> float:
        with torch.no_grad():
            return float(function(_shifted(rows, direction, shift)))

    here = float(value.detach())
    if coarse:
        return _judge(slopes, direction, None, shifted, COARSE_LIMIT, slopes, COARSE)
    return _judge(slopes, direction, here, shifted, FIRST_LIMIT, slopes)


def error_of(
    function: Function,
    leaves: Sequence[Tensor],
    slopes: Sequence[Tensor],
    here: float | None = None,
    seed: int = 0,
) -> float:
    """Return by how much a known first derivative is off a one-sided difference, relatively.

    Args:
        function: A scalar.
        leaves: Where, in float64.
        slopes: Its derivative there, of whatever precision.
        here: Its value there in float64, if that is known.
        seed: Seed of the direction, which is that of ``compare_first``.

    Cost:
        The function, without its derivative; twice, where nothing is known ``here``.
    """
    rows = [tensor.detach() for tensor in leaves]
    direction = _own_direction(rows, seed)
    with torch.no_grad():
        before = float(function(rows)) if here is None else here
        near = (float(function(_shifted(rows, direction, NEAR))) - before) / NEAR
    return _off(near, *_predicted([slope.double() for slope in slopes], direction))


def _own_direction(rows: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return shares of the numbers themselves, so that what is zero stays so."""
    drawn = generator(seed, "first derivative")
    return [directions(row, drawn).mul_(row) for row in rows]


def _predicted(pulled: Sequence[Tensor], direction: Sequence[Tensor]) -> tuple[float, float]:
    """Return a derivative along a direction, and the size that it has if no parts cancel."""
    terms = [(p * v).flatten() for p, v in zip(pulled, direction, strict=True)]
    total = float(torch.stack([term.sum() for term in terms]).sum())
    return total, float(torch.stack([term.dot(term) for term in terms]).sum().sqrt())


def _off(found: float, predicted: float, scale: float) -> float:
    return abs(found - predicted) / max(scale, abs(found), torch.finfo(torch.float64).tiny)


def _judge(  # noqa: PLR0913 (what is compared, with what, and how near)
    pulled: Sequence[Tensor],
    direction: Sequence[Tensor],
    here: float | None,
    at: Callable[[float], float],
    limit: float,
    slopes: list[Tensor],
    distances: Sequence[float] = DISTANCES,
    near: float = NEAR,
) -> Curvature:
    """Take differences until one agrees; what is wrong has two that agree with one another.

    The one-sided one is left out where nothing is known ``here``. Two that are no more than the
    rounding of the values, as of an adapter that hardly moves the output yet, say nothing.
    """
    predicted, scale = _predicted(pulled, direction)
    if here is not None:
        error = _off((at(near) - here) / near, predicted, scale)
        if error <= limit:
            return Curvature(error, False, slopes)
    found: list[float] = []
    for distance in distances:
        found.append((at(distance) - at(-distance)) / (2 * distance))
        if abs(found[-1] - predicted) <= limit * max(scale, abs(found[-1])):
            break
    errors = [abs(value - predicted) for value in found]
    size = max(scale, *map(abs, found), torch.finfo(torch.float64).tiny)
    best = min(errors)
    rounding = _ROUNDED * torch.finfo(torch.float64).eps * abs(here or 0.0)
    told = [
        value
        for value, error, distance in zip(found, errors, distances, strict=False)
        if error > rounding / distance
    ]
    spread = min((abs(a - b) for i, a in enumerate(told) for b in told[:i]), default=float("inf"))
    return Curvature(best / size, best > limit * size and spread <= 0.1 * best, slopes)


def _pulled(
    function: Function, rows: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradient by as many rows as there are weights, and its product with these.

    The product is pulled back to all rows.
    """
    leaves = [row.detach().requires_grad_() for row in rows]
    with torch.enable_grad():
        wanted = leaves[: len(weights)]
        found_of = gradients_of(function(leaves), wanted, create_graph=True)
        gradients = [
            torch.zeros_like(leaf) if each is None else each
            for each, leaf in zip(found_of, wanted, strict=True)
        ]
        used = [(g, w) for g, w in zip(gradients, weights, strict=True) if g.requires_grad]
        found = pulls([g for g, _ in used], leaves, [[w for _, w in used]])[0] if used else leaves
        pulled = [
            torch.zeros_like(row) if not used or product is None else product
            for row, product in zip(rows, found, strict=True)
        ]
    return [g.detach() for g in gradients], pulled


def _gradient(function: Function, rows: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    leaves = [row.requires_grad_() for row in rows]
    with torch.enable_grad():
        return _derivatives(function([*leaves, *others]), leaves)


def _derivatives(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))


def _shifted(rows: Sequence[Tensor], direction: Sequence[Tensor], shift: float) -> list[Tensor]:
    return [torch.add(row, v, alpha=shift) for row, v in zip(rows, direction, strict=True)]


def _weighted(slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    pairs = zip(slopes, weights, strict=True)
    return sum(float(g.flatten().dot(w.flatten())) for g, w in pairs)


def directions(row: Tensor, drawn: torch.Generator) -> Tensor:
    """Return normal numbers in the shape of a tensor, the same ones again after a thousand."""
    size = row.numel()
    numbers = torch.randn(min(size, _PERIOD), generator=drawn, dtype=row.dtype, device="cpu")
    return numbers.repeat(-(-size // _PERIOD) or 1)[:size].view(row.shape).to(row.device)


def _scale(row: Tensor) -> float:
    size = float(row.norm())
    return size / row.numel() ** 0.5 if size else 1.0
