"""Custom functions, whose backward pass may be another one than the derivative of their values.

A gradient reversal, a rounding that lets gradients through, a gradient that is clipped on its way:
the gradient of a step is made by the backward pass that their author wrote. How that gradient moves
with the parameters has two parts: through what the backward pass computes, and through the values
that the function handed on in the forward pass. Autograd pulls the second part back by the author's
backward pass as well, which may be no derivative of those values. So what a call was made with
stays in its node of the graph, and a product judges there which derivative is right.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from engine.routine.module.backward.call import CALL, Call
from engine.routine.module.backward.intermediates import in_graph
from engine.routine.module.backward.judged import pulled
from engine.routine.module.stop_gradient import PASSES
from engine.torch_modes import as_backward, as_function

# What ``Function.apply`` calls.
_AppliedBy: Any = torch.autograd.function._SingleLevelFunction


class OwnDerivatives(AbstractContextManager[None]):
    """Let products judge custom functions that are called inside the block.

    Calls are seen below ``Function.apply``, because people keep that under a name of their own;
    what a product does hangs on the node, so it is done wherever the graph is pulled through.
    Nothing is remembered from one call to another that a number depends on: which derivative is
    taken follows from the call and its cotangents alone, in whatever process and step.

    Cost:
        Nothing without custom functions. A call keeps copies of its activations until its graph is
        freed; a product calls the function once more, and some times more in float64 where its
        backward pass is no derivative.
    """

    def __init__(self) -> None:
        self._writes: dict[type[Function], bool] = {}
        self._outer: list[Any] = []

        def apply(function: Any, *args: Any) -> Any:  # noqa: ANN401 (as torch's)
            def call(*given: Any) -> Any:  # noqa: ANN401 (likewise)
                return super(_AppliedBy, function).apply(*given)

            with torch._C.DisableTorchFunction():  # modes that answer for the graph, or note calls
                is_passed_by = _is_passed_by(function, args)
            return call(*args) if is_passed_by else self._noted(function, args, call)

        self._apply = classmethod(apply)

    def __enter__(self) -> None:
        self._outer.append(vars(_AppliedBy).get("apply"))
        _AppliedBy.apply = self._apply

    def __exit__(self, *_: object) -> None:
        outer = self._outer.pop()
        if outer is None:
            del _AppliedBy.apply
        else:
            _AppliedBy.apply = outer

    def _noted(
        self, function: type[Function], args: tuple[Any, ...], call: Callable[..., Any]
    ) -> Any:  # noqa: ANN401 (as torch's)
        """Call a function of somebody's, and keep in its node what it was called with."""
        # One that writes into what it is given is known from its first call on.
        copies = self._writes.get(function, True)
        with torch._C.DisableTorchFunction():
            noted = Call(function, args, copies=copies, within=self)
        found = as_function(call, args)
        with torch._C.DisableTorchFunction():
            made = found if isinstance(found, tuple) else (found,)
            writes = noted.end(made)
            self._writes[function] = self._writes.get(function, False) or writes
            kind = function._backward_cls  # pyright: ignore[reportAttributeAccessIssue] (torch's)
            nodes = (each.grad_fn for each in made if isinstance(each, Tensor))
            node = next((each for each in nodes if type(each) is kind), None)
        if node is not None:
            kind.apply = _pulled
            setattr(node, CALL, noted)
        return found


def _is_passed_by(function: type, args: tuple[Any, ...]) -> bool:
    """Say whether nothing is to be noted of a call: of torch's and the engine's, and compilers'."""
    is_vmapped = function.__module__ == _VMAPPED and function.__name__.startswith("Vmapped")
    if function.__module__.partition(".")[0] in ("torch", "engine") and not is_vmapped:
        return True
    if torch.compiler.is_compiling() or not _is_recorded():
        return True
    return not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


_VMAPPED = "torch._functorch.autograd_function"
"""Where torch makes a function of somebody's function, of several examples."""

_is_recorded = torch.is_grad_enabled
"""Torch's own, in the place of which a traced module has another."""


def is_kept(node: object) -> bool:
    """Say whether a product has taken the derivative of the forward pass at a node."""
    call = getattr(node, CALL, None)
    return call is not None and call.is_by_forward


def _pulled(node: Any, *cotangents: Any) -> Any:  # noqa: ANN401 (as torch's)
    """Take the place of a node's ``apply``: what is kept in it is for derivatives of a gradient."""
    return as_backward(lambda: _judged(node, *cotangents))


def _judged(node: Any, *cotangents: Any) -> Any:  # noqa: ANN401 (as torch's)
    call = getattr(node, CALL, None)
    if call is None or not (PASSES.is_product or _is_recorded()):
        return BackwardCFunction.apply(node, *cotangents)
    if not PASSES.is_product:
        return in_graph(node, cotangents)

    def written(*given: Any) -> Any:  # noqa: ANN401 (as torch's)
        return BackwardCFunction.apply(node, *given)

    return pulled(call, written, cotangents)
