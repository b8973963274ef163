"""Finds the module whose second derivative is wrong, after a failure."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from engine.numerics.determinism import generator
from engine.routine.module.binding import Binding, copied
from engine.routine.number_format import convert, module_in_format
from engine.routine.routine import Routine
from engine.types import State
from engine.witness.finite_differences import compare, directions
from engine.witness.lines import cuts

_NOBODY = (
    "The fault is in no module by itself: look in the loss, in the forward passes and in a hook "
    "that they register for a detach() or .data, and for a custom backward, whose own derivative "
    "autograd does not see"
)
"""Where to look when no module is to blame, and no line."""

_HELD = (
    "Where a step should hold it constant, write engine.stop_gradient(x) in place of x.detach(), "
    ".data or a no_grad(), and take derivatives with create_graph=True before; where a function f "
    "should have the derivative of another one, g, write g(x) + engine.stop_gradient(f(x) - g(x)); "
    "what maps only the gradient of an activation is right as a hook of it (Tensor.register_hook); "
    "and copy.deepcopy(model) is a copy of the module that a step holds, in place of a "
    "state_dict() that is loaded into another one"
)
"""The remedy for what was cut out of the graph."""

_OWN = (
    "Write its backward pass with differentiable operations of the gradients that it is given and "
    "of what the forward pass keeps in ctx, as tensors: ctx.save_for_backward(x, y) or ctx.y = y, "
    "also in a list or a dict, made by operations of torch from the arguments and without item(). "
    "And without detach(), and without autograd.grad() of what was detached before"
)
"""The remedy for a backward pass that a user wrote."""


def where_to_look(who: str | None, loss: Callable[[], Tensor]) -> str:
    """Say what is to blame for a second derivative that is wrong, and what helps.

    Args:
        who: What ``culprit`` said.
        loss: Calls the module, on few examples, with a graph.

    Cost:
        Some calls of the loss, so only after a failure.
    """
    lines: list[str] = []
    with suppress(Exception):
        lines = cuts(loss)
    if not lines:
        return who or _NOBODY
    is_own = all(line.startswith("the custom function") for line in lines)
    remedy = _OWN if is_own else _HELD
    cut = (
        f"What moves with the parameters is taken out of the graph by {', '.join(lines)}. {remedy}"
    )
    return f"{who}. {cut}" if who else cut


def culprit(twin: Routine, state: State, loss: Callable[[], Tensor]) -> str | None:
    """Name the module whose second derivative is wrong, with what is known of it; None if none is.

    Args:
        twin: A run; its modules are compared in float64, whatever its format.
        state: Where.
        loss: Calls the module in that state, on few examples, with a graph.

    Cost:
        A comparison for each module that has no others inside, so only after a failure.
    """
    calls: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = []
    removes = []
    for name, module in twin.model.named_modules():
        if list(module.children()) and not hasattr(module, "parametrizations"):
            continue

        def note(
            module: nn.Module,
            inputs: tuple[object, ...],
            _output: object,
            name: str = name,
            own: nn.Module = module,
        ) -> None:
            # A copy that the loss makes has this hook as well, and keeps it.
            if module is own and inputs and all(isinstance(value, Tensor) for value in inputs):
                calls.append((name, module, tuple(value.detach() for value in inputs)))  # pyright: ignore[reportAttributeAccessIssue]

        removes.append(module.register_forward_hook(note).remove)
    try:
        # A loss may take derivatives of its own, and one that fails here has been heard before.
        with twin.reading(state), torch.enable_grad(), suppress(Exception):
            loss()
    finally:
        for remove in removes:
            remove()
    for name, module, inputs in calls:
        with suppress(RuntimeError, NotImplementedError, ValueError, TypeError):
            if _is_wrong(module, inputs):
                return _words(name, module)
    return None


def _is_wrong(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    if any(tensor.dtype == torch.float32 for tensor in (*module.parameters(), *inputs)):
        module, inputs = (
            module_in_format(copied(module), torch.float64),
            convert(inputs, torch.float64),
        )
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
            weights.append(directions(result, drawn))
        parts = result * weights[0]
        total = parts.sum() / parts.numel() ** 0.5  # couples the examples of a module to each other
        return total + total.square() + parts.square().sum()

    with binding.keeping():
        return compare(function, leaves).is_wrong


def _words(name: str, module: nn.Module) -> str:
    shown = f"{name!r} ({type(module).__name__})" if name else type(module).__name__
    if getattr(module, "scale_grad_by_freq", False):
        return (
            f"{shown} has scale_grad_by_freq, which torch's second derivative ignores. Leave it "
            "out, or divide by the counts in the loss"
        )
    return f"It is in {shown}. Write that module with other operations"
