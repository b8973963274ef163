"""Second derivatives beside a finite difference of first ones, in float64, on few examples.

Some operations of torch have a second derivative that is wrong and gives no error, and a hook that
acts on a gradient acts once more on what is pulled through it. Two gradients know nothing of that.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.numerics.determinism import generator
from engine.routine.batch_norm import BUFFERS
from engine.routine.binding import Binding
from engine.routine.routine import Routine
from engine.step.products import entering, named_refusals
from engine.types import Metaparams, State

DISTANCES = (1e-5, 1e-6, 1e-4)
"""Distances along the direction, relative to the parameters; the first that agrees is enough."""

LIMIT, UPDATE_LIMIT = 1e-5, 1e-6
"""Of the relative error of a second derivative, and of an update's first one, in float64: 1e-8 is
usual, and 1e-10."""

_MOST = 8
"""Examples on which derivatives are compared, at most."""

Function = Callable[[Sequence[Tensor]], Tensor]
"""Maps leaves to a scalar."""


@dataclass(frozen=True)
class Curvature:
    """One product of the second derivative, twice.

    Attributes:
        error: Relative error at the best distance.
        is_wrong: Whether finite differences agree with one another and not with the product.
    """

    error: float
    is_wrong: bool


def compare(
    function: Function, leaves: Sequence[Tensor], *, everywhere: bool = True, seed: int = 0
) -> Curvature:
    """Compare the second derivative of a scalar function along one direction.

    Args:
        function: Differentiable twice.
        leaves: Where, in float64.
        everywhere: Whether numbers are moved whose derivative is 0. A run does not move them, and
            torch's second derivative by some (the row of an embedding that stands for padding) is
            0 as well, whatever the function.
        seed: Of the direction and of the weights of the gradient.

    Cost:
        The function with its graph and its product, and two gradients for a distance.
    """
    drawn = generator(seed, "curvature")
    rows = [tensor.detach() for tensor in leaves]
    weights = [_like(row, drawn) for row in rows]
    direction = [_like(row, drawn) * _scale(row) for row in rows]
    slopes, pulled = _pulled(function, rows, weights)
    if not everywhere:
        direction = [v * (g != 0) for v, g in zip(direction, slopes, strict=True)]
    terms = torch.stack([(p * v).sum() for p, v in zip(pulled, direction, strict=True)])
    norms = [(p * v).square().sum() for p, v in zip(pulled, direction, strict=True)]
    predicted, scale = float(terms.sum()), float(torch.stack(norms).sum().sqrt())
    return _judge(predicted, scale, lambda h: _difference(function, rows, weights, direction, h))


def compare_first(function: Function, leaves: Sequence[Tensor], seed: int = 0) -> Curvature:
    """Compare the first derivative of a scalar function along one direction.

    Each number moves relative to itself, so that what is zero stays so.

    Cost:
        The function with its graph, and twice for a distance.
    """
    drawn = generator(seed, "first derivative")
    rows = [tensor.detach() for tensor in leaves]
    direction = [row * _like(row, drawn) for row in rows]
    slopes = _gradient(function, rows)
    terms = [(g * v).sum() for g, v in zip(slopes, direction, strict=True)]
    norms = [(g * v).square().sum() for g, v in zip(slopes, direction, strict=True)]
    predicted, scale = float(torch.stack(terms).sum()), float(torch.stack(norms).sum().sqrt())

    def difference(distance: float) -> float:
        with torch.no_grad():
            above, below = (
                float(function([row + shift * v for row, v in zip(rows, direction, strict=True)]))
                for shift in (distance, -distance)
            )
        return (above - below) / (2 * distance)

    return _judge(predicted, scale, difference, UPDATE_LIMIT)


def _judge(
    predicted: float, scale: float, difference: Callable[[float], float], limit: float = LIMIT
) -> Curvature:
    """Take differences until one agrees; what is wrong has two that agree with one another."""
    found: list[float] = []
    for distance in DISTANCES:
        found.append(difference(distance))
        if abs(found[-1] - predicted) <= limit * max(scale, abs(found[-1])):
            break
    errors = [abs(value - predicted) for value in found]
    size = max(scale, *map(abs, found), torch.finfo(torch.float64).tiny)
    best = min(errors)
    spread = min((abs(a - b) for i, a in enumerate(found) for b in found[:i]), default=float("inf"))
    return Curvature(best / size, best > limit * size and spread <= 0.1 * best)


def _pulled(
    function: Function, rows: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradient, and its product with the weights pulled back to the leaves."""
    leaves = [row.clone().requires_grad_() for row in rows]
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            function(leaves), leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )
        pairs = zip(gradients, weights, strict=True)
        used = [(g * w).sum() for g, w in pairs if g.requires_grad]
        zeros = [torch.zeros_like(row) for row in rows]
        pulled = (
            torch.autograd.grad(
                torch.stack(used).sum(), leaves, allow_unused=True, materialize_grads=True
            )
            if used
            else zeros
        )
    return [g.detach() for g in gradients], list(pulled)


def _difference(
    function: Function,
    rows: Sequence[Tensor],
    weights: Sequence[Tensor],
    direction: Sequence[Tensor],
    distance: float,
) -> float:
    def slope(shift: float) -> float:
        moved = [row + shift * v for row, v in zip(rows, direction, strict=True)]
        pairs = zip(_gradient(function, moved), weights, strict=True)
        return sum(float((g * w).sum()) for g, w in pairs)

    return (slope(distance) - slope(-distance)) / (2 * distance)


def _gradient(function: Function, rows: Sequence[Tensor]) -> list[Tensor]:
    leaves = [row.detach().clone().requires_grad_() for row in rows]
    with torch.enable_grad():
        found = torch.autograd.grad(function(leaves), leaves, allow_unused=True)
    return [torch.zeros_like(r) if g is None else g for g, r in zip(found, rows, strict=True)]


def _like(row: Tensor, drawn: torch.Generator) -> Tensor:
    return torch.randn(row.shape, generator=drawn, dtype=row.dtype).to(row.device)


def _scale(row: Tensor) -> float:
    return float(row.square().mean().sqrt()) if row.any() else 1.0


def small_step(twin: Routine, z: Metaparams) -> tuple[State, Tensor]:
    """Train the first step on few examples; return the state after it, and its gradient."""
    state = twin.initial_state(z)
    start = state["params"].detach().requires_grad_()
    with twin.reading(state), twin.binding.kept(), torch.enable_grad():
        (gradient,) = torch.autograd.grad(_loss(twin, start, z), start)
    with torch.no_grad():
        return {**state, **twin.update(state, gradient, z, 0)}, gradient


def update_error(twin: Routine, state: State, gradient: Tensor, z: Metaparams) -> Curvature:
    """Compare the derivative of the optimizer's update, and of ``advance``, with a difference.

    Args:
        twin: A run in float64.
        state: A state after a step, where moments are not zero.
        gradient: Of that step.
        z: Its metaparameters.
    """
    leaves = entering(twin, z, 0)
    rows = {name: row.detach() for name, row in state.items() if name != BUFFERS}
    names, drawn = [*rows, "gradient", *leaves], generator(0, "update")
    weights = {name: _like(row, drawn) for name, row in rows.items()}

    def function(values: Sequence[Tensor]) -> Tensor:
        given = dict(zip(names, values, strict=True))
        before = {**state, **{name: given[name] for name in rows}}
        point = {**z, **{name: given[name] for name in leaves}}
        following = twin.update(before, given["gradient"], point, 0)
        following |= twin.moved_own(before, following["params"], point, 0)
        return torch.stack([(row * weights[name]).sum() for name, row in following.items()]).sum()

    return compare_first(function, [*rows.values(), gradient, *leaves.values()])


def step_curvature(twin: Routine, state: State, z: Metaparams) -> Curvature:
    """Compare the second derivative of a step's loss over few examples.

    Args:
        twin: A run in float64.
        state: Where.
        z: Its metaparameters.

    Raises:
        UndifferentiableError: If there is no second derivative.
    """
    with twin.reading(state), twin.binding.kept(), named_refusals(0):
        return compare(
            lambda leaves: _loss(twin, leaves[0], z),
            [state["params"]],
            everywhere=twin.shapes_start,
        )


def _loss(twin: Routine, params: Tensor, z: Metaparams) -> Tensor:
    term = next(twin.terms(0))
    # A share of the batch, so that a product of a second derivative costs less than a plain step.
    few = max(2, min(_MOST, twin.batch_size // 8))
    # A state of the run's own may have a row for each example of a whole batch.
    whole = len(term.indices) <= few or twin.own is not None
    few = term if whole else term.cut(few)[0]
    return twin.term_losses(params, few, z, 0).sum() / twin.batch_size


def culprit(twin: Routine, state: State, z: Metaparams) -> str:
    """Name the module whose second derivative is wrong, with what is known of it.

    Cost:
        A comparison for each module that has no others inside, so only after a failure.
    """
    calls: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = []
    removes = []
    for name, module in twin.model.named_modules():
        if list(module.children()) and not hasattr(module, "parametrizations"):
            continue

        def note(
            module: nn.Module, inputs: tuple[object, ...], output: object, name: str = name
        ) -> None:
            del output
            if inputs and all(isinstance(value, Tensor) for value in inputs):
                calls.append((name, module, tuple(value.detach() for value in inputs)))  # pyright: ignore[reportAttributeAccessIssue]

        removes.append(module.register_forward_hook(note).remove)
    try:
        with twin.reading(state), torch.no_grad():
            _loss(twin, state["params"], z)
    finally:
        for remove in removes:
            remove()
    for name, module, inputs in calls:
        with suppress(RuntimeError, NotImplementedError, ValueError, TypeError):
            if _is_wrong(module, inputs):
                return _words(name, module)
    for name, module in twin.model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            return _words(name, module)
    return (
        "The fault is in no module by itself: look in the loss and in the forward passes for a "
        "detach() or .data, a hook on an activation (Tensor.register_hook) or a custom backward, "
        "whose own derivative autograd does not see"
    )


def _is_wrong(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    parameters = dict(module.named_parameters())
    names = list(parameters)
    moving = [value for value in inputs if value.is_floating_point()]
    leaves = [*moving, *parameters.values()]
    if not leaves:
        return False
    binding, drawn = Binding(module), generator(0, "culprit")
    weights: list[Tensor] = []

    def function(leaves: Sequence[Tensor]) -> Tensor:
        given = iter(leaves[: len(moving)])
        binding.put(dict(zip(names, leaves[len(moving) :], strict=True)))
        result = module(*[next(given) if v.is_floating_point() else v for v in inputs])
        if not weights:
            weights.append(_like(result, drawn))
        parts = result * weights[0]
        total = parts.sum() / parts.numel() ** 0.5  # couples the examples of a module to each other
        return total + total.square() + parts.square().sum()

    with binding.kept():
        return compare(function, leaves).is_wrong


def _words(name: str, module: nn.Module) -> str:
    shown = f"{name!r} ({type(module).__name__})" if name else type(module).__name__
    if module._backward_hooks or module._backward_pre_hooks:
        return (
            f"{shown} has a full backward hook, which acts on a gradient and then once more on "
            "its derivative. Write it as a hook on a parameter, or as an operation of its own"
        )
    if getattr(module, "scale_grad_by_freq", False):
        return (
            f"{shown} has scale_grad_by_freq, of which torch's second derivative knows nothing. "
            "Leave it out, or divide by the counts in the loss"
        )
    return f"It is in {shown}. Write that module with other operations"
