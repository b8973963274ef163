"""What a custom function has kept of its forward pass, in the backward pass of a step.

A function may keep what it computed on its way, neither an argument nor a result: torch holds that
constant in the derivative of its backward pass, although it moves with the arguments. So where a
gradient is made that is to be differentiated, the forward pass is traced once more, and what was
kept gets the derivative of what is found. Its values are the kept ones, to the last bit, and only a
product goes through them: a gradient that the user's own loss differentiates is torch's.

``once_differentiable`` says that a backward pass has no derivative. It is taken off where the pass
is made of operations that have one, which a difference quotient of it says at every call.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx, once_differentiable
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from engine.routine.module.backward.call import CALL, Call, is_close
from engine.routine.module.backward.refusals import ONCE, refusal
from engine.routine.module.backward.slope_of_backward import is_cut
from engine.routine.module.stop_gradient import PASSES, stop_gradient

_MARK: Any = once_differentiable(torch.neg)
"""What ``once_differentiable`` makes of a function: all of them have one code."""


class Traced(FunctionCtx):
    """The context of a forward pass that is traced, whose tensors keep their graphs.

    Args:
        needs: Of which arguments a derivative is wanted.
    """

    to_save: tuple[Any, ...] = ()

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What ``save_for_backward`` was given."""
        return self.to_save


class _Kept:
    """A node as its backward pass sees it, with others in the place of some of what it holds.

    Its saved tensors are asked for once: those of a checkpoint are there no second time.
    """

    def __init__(self, node: Any, saved: Sequence[Any], others: dict[str, Any]) -> None:  # noqa: ANN401 (torch's)
        vars(self).update(_node=node, _others=others, saved_tensors=tuple(saved))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever a context holds)
        others = vars(self)["_others"]
        return others[name] if name in others else getattr(vars(self)["_node"], name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 (likewise)
        vars(self)["_others"].pop(name, None)
        setattr(vars(self)["_node"], name, value)

    def __delattr__(self, name: str) -> None:
        vars(self)["_others"].pop(name, None)
        delattr(vars(self)["_node"], name)


class _MovesAs(Function):
    """A value, through which products go back to another one of the same numbers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, moving: Tensor) -> Tensor:
        del moving
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401 (torch's)
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, Tensor | None]:  # noqa: ANN401 (torch's)  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        return None, cotangent if PASSES.is_product else None


def in_graph(node: Any, cotangents: Sequence[Tensor | None]) -> Any:  # noqa: ANN401 (torch's)
    """Call the backward pass of a node where its gradient is to be differentiated.

    Raises:
        WitnessError: If it is marked ``once_differentiable``, and it is right.

    Cost:
        The backward pass; the forward pass too, where something is kept that has no graph. Of a
        function that is marked some eight calls of both.
    """
    call: Call = getattr(node, CALL)
    function = node._forward_cls
    written = function.vjp if function.vjp is not Function.vjp else function.backward
    unmarked = written.__wrapped__ if _is_marked(written) else None
    saved = node.saved_tensors
    own = {name: value for name, value in vars(node).items() if name != CALL}
    others: dict[str, Any] = {}
    if any(map(_has_no_graph, tree_leaves([list(saved), own]))):
        with suppress(Exception), torch._C.DisableTorchFunction():  # it may know no graph
            saved, others = _moving(call, saved, own)
    kept = _Kept(node, saved, others)
    if unmarked is None:
        return written(kept, *cotangents)
    try:
        found = unmarked(kept, *cotangents)
        with torch._C.DisableTorchFunction():
            cut = is_cut(call, Traced, unmarked, cotangents)
    except Exception:  # somebody's backward pass, which knows no graph, such as one of numpy
        return written(kept, *cotangents)
    if cut:
        raise refusal(call, ONCE)
    return found


def _is_marked(written: Callable[..., Any]) -> bool:
    return getattr(written, "__code__", None) is _MARK.__code__


def _has_no_graph(value: object) -> bool:
    """Say whether a derivative may be missing of what a node holds."""
    return isinstance(value, Tensor) and _is_real(value) and not value.requires_grad


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _moving(
    call: Call, saved: Sequence[Any], own: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return a node's saved values, with the derivative of those left by a traced forward."""
    if call.is_changed():
        return saved, {}
    context = Traced(call.needs)
    results = call.again(call.linked(), graph=True, context=context)
    if not call.returned(results):
        return saved, {}
    others = {
        name: _in_its_place(value, vars(context)[name])
        for name, value in own.items()
        if name in vars(context) and any(map(_has_no_graph, tree_leaves(value)))
    }
    return _in_its_place(list(saved), list(context.saved_tensors)), others


def _in_its_place(kept: Any, traced: Any) -> Any:  # noqa: ANN401 (whatever a context holds)
    held, form = tree_flatten(kept)
    found, other = tree_flatten(traced)
    if form != other:
        return kept
    return tree_unflatten([_moved(*each) for each in zip(held, found, strict=True)], form)


def _moved(kept: Any, traced: Any) -> Any:  # noqa: ANN401 (likewise)
    if not _has_no_graph(kept) or not isinstance(traced, Tensor) or not traced.requires_grad:
        return kept
    if kept.dtype != traced.dtype or not is_close(kept, traced.detach()):
        return kept
    return _MovesAs.apply(kept, stop_gradient(traced))
