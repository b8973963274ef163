"""Answers to a module that asks about the graph while its constants are kept in it.

While a step is traced, values that the module took out of the graph are still in it. Code that asks
whether a tensor requires a gradient would then take another branch, or fail an assertion. So it
gets the answer that torch would give without the engine. And what a call asks of the graph of its
caller: whether it needs one, and results without it.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from engine.routine.module.stop_gradient import is_stop, is_stopping


class SeenGraph:
    """The graph as it would be if what is held constant were cut out of it.

    Args:
        silent: Tensors whose graph nobody may see: the buffers of a state.

    Cost:
        Each node is looked at once, where somebody asks.
    """

    def __init__(self, silent: Iterable[Tensor]) -> None:
        self._known: dict[Any, bool] = {}  # nodes, alive, so that none comes again
        for tensor in silent:
            self._known[tensor.grad_fn] = False

    def requires_grad(self, tensor: Tensor) -> bool:
        """Say whether the gradient of a loss would flow to a tensor."""
        if not tensor.requires_grad:
            return False
        node = tensor.grad_fn
        return node is None or self._flows(node)

    def ask_for(self, tensor: Tensor) -> None:
        """Let a tensor require a gradient from here on, as ``requires_grad_()`` does."""
        self.mark(tensor, flows=True)

    def mark(self, tensor: Tensor, *, flows: bool) -> None:
        """Say of a tensor whether a gradient flows to it, whatever it was made of."""
        if tensor.grad_fn is not None:
            self._known[tensor.grad_fn] = flows

    def _flows(self, first: Any) -> bool:  # noqa: ANN401 (a node of torch's)
        waiting = [first]
        while waiting:
            node = waiting[-1]
            if node in self._known:
                waiting.pop()
                continue
            before = [] if is_stop(node) else [each for each, _ in node.next_functions if each]
            unknown = [each for each in before if each not in self._known]
            if unknown:
                waiting.extend(unknown)
                continue
            is_leaf = not before and not is_stop(node)
            self._known[node] = is_leaf or any(self._known[each] for each in before)
            waiting.pop()
        return self._known[first]


_REQUIRES: Any = Tensor.requires_grad
_LEAF: Any = Tensor.is_leaf
_NODE: Any = Tensor.grad_fn

ASKS = (_REQUIRES.__get__, _LEAF.__get__, _NODE.__get__)
"""Functions by which code asks a tensor about its graph."""


def answer(func: object, tensor: Tensor, seen: SeenGraph) -> Any:  # noqa: ANN401 (as the function)
    """Return torch's answer to one of ``ASKS``."""
    flows = seen.requires_grad(tensor)
    if func == ASKS[0]:
        return flows
    if func == ASKS[1]:
        return tensor.is_leaf or not flows
    return tensor.grad_fn if flows else None


# What ``Function.apply`` calls.
_AppliedBy: Any = torch.autograd.function._SingleLevelFunction


class functions_given(AbstractContextManager[None]):
    """Give custom functions other arguments, as where the module wants no graph of them.

    Below ``Function.apply``, because people keep that under a name of their own.

    Args:
        given: Returns what stands for an argument, mostly the argument itself.
    """

    def __init__(self, given: Callable[[Any], Any]) -> None:
        self._given, self._outer = given, None

    def __enter__(self) -> None:
        outer = self._outer = vars(_AppliedBy).get("apply")

        def apply(function: Any, *args: Any) -> Any:  # noqa: ANN401 (as torch's)
            if not is_stopping(function):
                args = tree_map(self._given, args)
            if outer is None:
                return super(_AppliedBy, function).apply(*args)
            return outer.__func__(function, *args)

        _AppliedBy.apply = classmethod(apply)

    def __exit__(self, *_: object) -> None:
        if self._outer is None:
            del _AppliedBy.apply
        else:
            _AppliedBy.apply = self._outer


def copied_values(data: Any, stopped: Any) -> Tensor | None:  # noqa: ANN401 (what tensor() takes)
    """Return ``torch.tensor(data)`` of tensors, kept in the graph; None if there are none.

    Args:
        data: A tensor, or a list of numbers some of which are tensors.
        stopped: Holds a tensor constant.
    """
    if isinstance(data, Tensor):
        return stopped(data).clone() if data.requires_grad else None
    if not isinstance(data, list | tuple) or not any(
        isinstance(each, Tensor) and each.requires_grad and each.numel() == 1 for each in data
    ):
        return None
    like = next(each for each in data if isinstance(each, Tensor) and each.requires_grad)
    parts = [
        stopped(each).reshape(()) if isinstance(each, Tensor) else like.new_full((), each)
        for each in data
    ]
    return torch.stack(parts)


def without_graph(found: Any) -> Any:  # noqa: ANN401 (whatever a function returns)
    """Return a function's result with its tensors as constants."""
    return tree_map(lambda part: part.detach() if isinstance(part, Tensor) else part, found)


def wants_a_graph(error: BaseException | None) -> bool:
    """Say whether torch missed a graph: in an error, or in the one that it was raised for."""
    while error is not None:
        if isinstance(error, RuntimeError) and "not require grad" in str(error):
            return True
        error = error.__cause__
    return False
