"""Buffers that a module moves by rules of its own, as a part of the state.

The forward pass of some modules writes buffers, mostly under ``no_grad()``, that later steps read:
a centre, an average of activations, singular vectors, a codebook, a counter that anneals. Within
one step such a value is a constant; in the derivative of the whole run it is not. So while a step
is run with its graph, what the module cuts out of the graph is held by ``stop_gradient`` instead of
``detach()``.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from engine.routine.module.buffers.calls import refuse_rounding
from engine.routine.module.buffers.norm_arguments import (
    BATCH_NORM,
    INSTANCE_NORM,
    bound,
    normalized,
)
from engine.routine.module.buffers.saved_copies import (
    PARTS,
    SavedCopies,
    numbers_set,
    parts,
)
from engine.routine.module.seen_graph import (
    ASKS,
    SeenGraph,
    answer,
    copied_values,
    functions_given,
)
from engine.routine.module.stop_gradient import stop_gradient
from engine.torch_modes import FunctionMode


class Carrying(FunctionMode):
    """Runs a module whose buffers are a part of the state.

    Args:
        held: The buffers, as they are bound for the call.
        is_traced: Whether their derivative is wanted. What the module takes out of the graph, by
            ``detach()``, ``.data`` or ``no_grad()``, is then held constant in the step alone.
    """

    def __init__(self, held: Mapping[str, Tensor], *, is_traced: bool) -> None:
        super().__init__()
        self._names = {tensor.untyped_storage()._cdata: name for name, tensor in held.items()}
        self._kept = list(held.values())  # alive, so that no address comes again
        self.is_traced, self.is_off = is_traced, False
        self._seen = SeenGraph(self._kept if is_traced else ())
        self._entered, self._saved = ExitStack(), SavedCopies(self.is_overwritten)

    def __enter__(self) -> "Carrying":
        if self.is_traced:
            self.is_off = not torch.is_grad_enabled()
            # no_grad() asks for it, to leave it as it was.
            asked = mock.patch.object(torch, "is_grad_enabled", self._is_on)
            self._entered.enter_context(asked)
            # Without a graph nobody would save what stands in a buffer before it is written over.
            self._entered.enter_context(self._saved)
            self._entered.enter_context(functions_given(self.in_functions))
            self._entered.enter_context(numbers_set(self.holds, self.stopped))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._entered.close()

    def _is_on(self) -> bool:
        return not self.is_off

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``, in the graph."""
        refuse_rounding(function, args)
        own = _NORMS.get(function)
        if own is not None:
            found = own(self, args, kwargs)
            if found is not None:
                return found
        if not self.is_traced:
            return function(*args, **kwargs)
        if function is _SET_GRAD:
            self.is_off = not args[0]
            return None
        first: Any = args[0] if args else None
        made = self._result_without_gradient(function, args, kwargs)
        if made is not None:
            return made
        if isinstance(first, Tensor):
            answered = self._of_tensor(function, first, args, kwargs)
            if answered is not NotImplemented:
                return answered
        return self._in_the_graph(function, args, kwargs)

    def _result_without_gradient(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """Return the result of functions that take no gradient; None for others."""
        if getattr(func, "__module__", "") == nn.init.__name__:
            filled = args[0] if args else kwargs["tensor"]
            if self.holds(filled):  # with what is drawn, whatever stood there
                given = {name: value for name, value in kwargs.items() if name != "tensor"}
                return filled.copy_(func(filled.detach().clone(), *args[1:], **given))
        if func in _COPIES:
            copied = copied_values(args[func is not torch.tensor], self.stopped)
            formats = {n: v for n, v in kwargs.items() if n in ("dtype", "device")}
            return copied.to(**formats) if copied is not None and formats else copied
        return None

    def _of_tensor(
        self, func: Callable[..., Any], first: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call what cuts a tensor out of the graph, asks about it, or looks into its memory."""
        if func in _OF_BUFFERS and self.holds(first):
            return self._of_buffer(func, first, args, kwargs)
        if func in CUTS:
            return self.stopped(first)
        if func in _LOOKS:
            return func(first.detach(), *args[1:], **kwargs)
        if func in ASKS:
            return answer(func, first, self._seen)
        if func not in _OF_LEAVES or first.is_leaf or self._seen.requires_grad(first):
            return NotImplemented
        if func is Tensor.__deepcopy__:
            args[1][id(first)] = first.clone()
            return args[1][id(first)]
        if (args[1:] or (kwargs.get("requires_grad", True),))[0]:
            self._seen.ask_for(first)
        return first

    def _of_buffer(
        self, func: Callable[..., Any], first: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call what cuts a buffer out of the graph, which it is, into parts, or fills it."""
        if func in PARTS:
            return parts(func, first, args, kwargs)
        if func == _SET_DATA:
            first.copy_(self.stopped(args[1]))
            return None
        return first

    def _in_the_graph(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``func``, on what is held constant where the module wants no graph."""
        into, named = kwargs.get("out"), {n: v for n, v in kwargs.items() if n != "out"}
        if self._saved.is_transformed:
            args = tree_map(lambda each: each.clone() if self.holds(each) else each, args)
        if self.is_off:
            kept = int(writes_into_first(func))
            rest: Any = tree_map(self.stopped, args[kept:])
            args, named = (
                (*args[:kept], *rest),
                {n: tree_map(self.stopped, v) for n, v in named.items()},
            )
        if isinstance(into, Tensor) and (self.is_off or self.holds(into)):
            found = func(*args, **named)
            if into.shape != found.shape:  # torch's own resizes it
                into.resize_(found.shape)
            return into.copy_(self.stopped(found))
        return func(*args, **(named if into is None else {**named, "out": into}))

    def hold(self, tensor: Tensor) -> None:
        """Let another tensor be one into which the module may write; its memory is its own."""
        self._names[tensor.untyped_storage()._cdata] = ""
        self._kept.append(tensor)

    def is_overwritten(self, tensor: Tensor) -> bool:
        """Say whether the module may write into what autograd has saved."""
        return self.holds(tensor)

    def in_functions(self, value: Any) -> Any:  # noqa: ANN401 (any argument)
        """Return what a custom function of autograd's is given in the place of an argument."""
        return self.stopped(value) if self.is_off else value

    def holds(self, tensor: Any) -> bool:  # noqa: ANN401 (any argument)
        """Say whether something is one of the buffers, or a part of one."""
        if not isinstance(tensor, Tensor):
            return False
        try:
            return tensor.untyped_storage()._cdata in self._names
        except (RuntimeError, NotImplementedError):
            return False

    def stopped(self, value: Any) -> Any:  # noqa: ANN401 (any argument)
        """Return a value that the step holds constant; buffers, which are, and others as given."""
        if type(value) not in (Tensor, torch.nn.Parameter) or not value.requires_grad:
            return value
        return value if self.holds(value) else stop_gradient(value)

    def _move(self, buffer: Tensor, batch: Tensor, share: float) -> None:
        buffer.copy_((1 - share) * buffer + share * self.stopped(batch).to(buffer.dtype))

    def batch_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Normalize by the batch and move the statistics, or by the statistics, if it holds them.

        Returns:
            None where the statistics are no buffers of the state.
        """
        given = bound(BATCH_NORM, args, kwargs)
        mean, variance, inputs = given["running_mean"], given["running_var"], given["input"]
        if not self.holds(mean) or not self.holds(variance):
            return None
        if not given["training"]:
            return normalized(inputs, mean, variance, given)
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        found = torch.var_mean(inputs, dim=axes)
        self._move(mean, found[1], given["momentum"])
        self._move(variance, found[0], given["momentum"])
        return functional.batch_norm(
            inputs, None, None, given["weight"], given["bias"], training=True, eps=given["eps"]
        )

    def instance_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Normalize each example by itself and move the statistics by their mean; likewise."""
        given = bound(INSTANCE_NORM, args, kwargs)
        mean, variance, inputs = given["running_mean"], given["running_var"], given["input"]
        if not self.holds(mean) or not self.holds(variance):
            return None
        if not given["use_input_stats"]:
            return normalized(inputs, mean, variance, given)
        found = torch.var_mean(inputs, dim=list(range(2, inputs.ndim)))
        self._move(mean, found[1].mean(0), given["momentum"])
        self._move(variance, found[0].mean(0), given["momentum"])
        return functional.instance_norm(
            inputs, weight=given["weight"], bias=given["bias"], eps=given["eps"]
        )


def writes_into_first(function: Callable[..., Any]) -> bool:
    """Say whether a function of torch's changes its first argument in place."""
    name = getattr(function, "__name__", "")
    return name in IN_PLACE or (name.endswith("_") and not name.startswith("__"))


_NORMS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    functional.batch_norm: Carrying.batch_norm,
    functional.instance_norm: Carrying.instance_norm,
}
_SET_GRAD: Any = torch._C._set_grad_enabled
_DATA: Any = Tensor.data
_SET_DATA = _DATA.__set__
CUTS = (Tensor.detach, torch.detach, Tensor.detach_, _DATA.__get__)
_OF_BUFFERS = (*CUTS, *PARTS, _SET_DATA, Tensor.requires_grad_)
_LOOKS = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
_OF_LEAVES = (Tensor.requires_grad_, Tensor.__deepcopy__)
_COPIES = (torch.tensor, Tensor.new_tensor)
IN_PLACE = ("__iadd__", "__imul__", "__isub__", "__itruediv__", "__setitem__")
