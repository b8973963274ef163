"""Places of the user's code that take a value out of the graph, and where it comes back into one.

``CutPlaces`` listens to whole runs. A log takes a value out and keeps it; what goes on into the
loss, as a factor or one of two branches, is followed to where it meets the graph again. A step may
change nothing but whether it counts there.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage

from engine.torch_modes import FunctionMode
from engine.witness.cuts.callers import Origins, Place, calling_place
from engine.witness.cuts.functions import ForwardPass, tensors_in
from engine.witness.lines import CUTS


class CutPlaces(FunctionMode):
    """Notes where a call inside the block loses the graph of what it is given.

    A place is a line and those that led to it: one helper may serve a log and a loss.

    Args:
        step: Says in which step a call is made.

    Attributes:
        found: The places and their steps, in the order in which they were met first; also those
            where what was taken out meets a graph again, which may be another line, now and then.
        entering: The places of which a number meets a graph again, or may do so unseen: what has
            become a number of Python's, or an array of numpy's, is not followed through arithmetic.
        in_backward: The places that were met in a backward pass.
        backward_of: The steps in whose backward pass code of the user's is called, as a hook is,
            which may read any number that was taken out before.

    Cost:
        Some three microseconds for each function of torch that is called in Python, and one more
        after a cut.
    """

    def __init__(self, step: Callable[[], int] = lambda: 0) -> None:
        super().__init__()
        self._step = step
        self.found: dict[tuple[Place, int], None] = {}
        self.entering: set[Place] = set()
        self.in_backward: set[Place] = set()
        self.backward_of: set[int] = set()
        self._taken: dict[int, tuple[Callable[[], object], Origins]] = {}
        self._written: dict[int, tuple[UntypedStorage, Origins]] = {}
        self._inside: ForwardPass | None = None
        self._in_nodes: dict[int, Callable[[], object]] = {}
        self._is_own_backward = False

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``, and note where it is called if it cuts."""
        if _is_in_backward() and calling_place():
            self.backward_of.add(self._step())
        is_cut = not torch.is_grad_enabled() or _is_cut(function, kwargs)
        if is_cut and any(map(moves, tensors_in((*args, *kwargs.values())))):
            place = self._note()
            result = self.taken_out(place, function, args, kwargs)
        else:
            result = self.called(function, args, kwargs)
            place = None
            if self._is_lost(function, (*args, *kwargs.values()), result):
                place = self._note()
                result = self.taken_out(place, function, args, kwargs, result)
        if place is not None or self._taken:
            self._follow(place, function, args, kwargs, result)
        return result

    def _is_lost(
        self, function: Callable[..., Any], values: tuple[Any, ...], result: object
    ) -> bool:
        """Say whether a result has numbers of a graph in it that it has lost, or that a node keeps.

        Torch's ``tensor()`` and ``complex()`` lose it. What the node of a custom function keeps is
        for its backward pass, and has no graph for whoever reads it elsewhere.
        """
        is_number = _has_numbers_only(result) and function not in _BY_SHAPE
        if is_number and any(each.requires_grad for each in tensors_in(values)):
            return True
        if not self._in_nodes or function in _BY_SHAPE or not self._reads_node(values):
            return False
        return is_number or isinstance(result, np.ndarray | list) or _moves_any(result)

    def in_node(self, value: object) -> bool:
        """Say whether it is a tensor without a graph that the node of a custom function keeps."""
        known = self._in_nodes.get(id(value))
        is_known = known is not None and known() is value
        return is_known and isinstance(value, Tensor) and not value.requires_grad

    def _reads_node(self, values: Sequence[Any]) -> bool:
        is_own = self._is_own_backward or self._inside is not None
        return not is_own and any(map(self.in_node, tensors_in(values)))

    def around_function(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call a custom function, and note where if its forward pass leaves a number elsewhere."""
        if self._inside is not None:
            return call(*args)
        reads = bool(self._in_nodes) and self._reads_node(args)
        self._inside = inside = ForwardPass()
        try:
            result = call(*args)
        finally:
            self._inside = None
        for name in inside.names():
            self._taken.pop(name, None)
        left, kept = inside.end(result)
        self._in_nodes |= kept
        place = calling_place() if inside.has_left or reads else ()
        if place:
            self._add(place)
            origins = frozenset({place})
            self._taken |= {name: (value, origins) for name, value in left.items()}
        return result

    def around_backward(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 (whatever it returns)
        """Call the backward pass of a custom function, which reads what its node keeps."""
        before, self._is_own_backward = self._is_own_backward, True
        try:
            return call()
        finally:
            self._is_own_backward = before

    def expect_backward_code(self) -> None:
        """Note the step, in which a number may meet the graph in the backward pass, unseen."""
        self.backward_of.add(self._step())

    def taken_out(
        self,
        place: Place | None,  # noqa: ARG002 (for classes that change what is taken out)
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *result: Any,  # noqa: ANN401 (likewise)
    ) -> Any:  # noqa: ANN401 (likewise)
        """Return what a function takes out of the graph: what it returned, if it was called."""
        return result[0] if result else self.called(function, args, kwargs)

    def called(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call a function."""
        return function(*args, **kwargs)

    def _note(self) -> Place | None:
        if self._inside is not None:
            return _FORWARD
        place = calling_place()
        if place:
            self._add(place)
        return place or None

    def _add(self, place: Place) -> None:
        self.found.setdefault((place, self._step()))
        if _is_in_backward():
            self.in_backward.add(place)

    def _follow(
        self,
        place: Place | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: object,
    ) -> None:
        """Note what was taken out, and what is made of it, until it meets a graph."""
        origins = self._origins((*args, *kwargs.values()))
        if place is not None:
            origins |= {place}
        if not origins:
            return
        if self._inside is not None and writes(function):
            self._inside.write(args[0] if args else None)
        results = result if isinstance(result, list | tuple) else (result,)
        if _moves_any(results):
            self.entering |= origins
            self._note()
            return
        for each in results:
            self._take(each, origins, args)
        if writes(function):
            self._take_memory(args[:1], origins)
        unfollowed = float | complex | np.ndarray | list
        if any(isinstance(each, unfollowed) for each in (result, *results)):
            self.entering |= origins
            if self._inside is not None:
                self._inside.has_left = True

    def _take(self, value: object, origins: Origins, args: Sequence[Any]) -> None:
        if isinstance(value, Tensor):
            if value.requires_grad or not (value.is_floating_point() or value.is_complex()):
                return  # a mask or a place in a list has no derivative that could be lost
            self._taken[id(value)] = (weakref.ref(value), origins)
        elif isinstance(value, float | complex):
            self._taken[id(value)] = (lambda: value, origins)  # kept, so that it stays the only one
        else:
            return
        if self._inside is not None:
            self._inside.take(value, args)

    def _take_memory(self, written: Sequence[Any], origins: Origins) -> None:
        """Follow what a function has written into, also by views, and what .data was taken of."""
        for each in written:
            if isinstance(each, Tensor) and not each.requires_grad:
                with suppress(Exception):  # one without memory, as of torch.func
                    memory = each.untyped_storage()
                    self._written[memory.data_ptr()] = memory, origins

    def _origins(self, values: Sequence[Any]) -> Origins:
        """Return the places from which any of the arguments comes, as far as it is known."""
        found: Origins = frozenset()
        for value in values:
            for each in value if isinstance(value, list | tuple) else (value,):
                known = self._taken.get(id(each))
                if known is not None and known[0]() is each:
                    found |= known[1]
                if self._written and isinstance(each, Tensor) and not each.requires_grad:
                    with suppress(Exception):  # one without memory, as of torch.func
                        memory = each.untyped_storage().data_ptr()
                        found |= self._written[memory][1] if memory in self._written else set()
        return found


_FORWARD: Place = (("", 0),)
"""Any place in the forward pass of a custom function, which is left as one."""


def writes(function: Callable[..., Any]) -> bool:
    """Say whether a function writes into its first argument, by torch's way of naming those."""
    name = getattr(function, "__name__", "")
    return name in _WRITING or (name.endswith("_") and not name.endswith("__"))


_WRITING = {
    *("__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__"),
    *("__ifloordiv__", "__imod__", "__ipow__"),
}


def _is_in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


_BY_SHAPE = {
    *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like),
    *(torch.rand_like, torch.randn_like),
    *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full),
}
"""Functions that read no number of the tensor that they are given."""


def _has_numbers_only(result: object) -> bool:
    """Say whether a result has numbers that may have been a tensor's, and no graph."""
    if isinstance(result, Tensor):
        return not result.requires_grad and (result.is_floating_point() or result.is_complex())
    return isinstance(result, float | complex)


def moves(tensor: Tensor) -> bool:
    """Say whether a tensor has a graph; of one that torch.func has wrapped, it is not known."""
    return tensor.requires_grad or _is_wrapped(tensor)


def _moves_any(result: object) -> bool:
    results = result if isinstance(result, list | tuple) else (result,)
    return any(isinstance(each, Tensor) and moves(each) for each in results)


_is_wrapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue] (torch's own)


def _is_cut(function: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    if function is torch.autograd.grad:
        return not kwargs.get("create_graph")
    return function in CUTS
