"""What the forward pass of a custom function takes out of the graph, and leaves somewhere.

All of a forward pass is computed without a graph. Its results come into one by the function's node,
whose derivative each product judges by itself; so does what the node keeps for the backward pass.
What is left elsewhere, as a class's attribute or a number in a list, may be used unseen.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils._pytree import tree_leaves

Value = Callable[[], object]
"""Returns a value, or None if nobody has it any more."""


class ForwardPass:
    """One call of a custom function.

    Attributes:
        has_left: Whether a number may be where nobody follows it.
    """

    def __init__(self) -> None:
        self.has_left = False
        self._taken: dict[int, Value] = {}
        self._own_memory: set[int] = set()

    def take(self, value: object, args: Sequence[Any]) -> None:
        """Follow what the forward pass has made.

        Args:
            value: What a function of torch has returned.
            args: What that was given.
        """
        if isinstance(value, Tensor):
            self._taken[id(value)] = weakref.ref(value)
            memory = memory_of(value)
            if memory is not None and memory not in map(memory_of, tensors_in(args)):
                self._own_memory.add(memory)
        else:  # a number of Python's, of which it is not known who has it
            self._taken[id(value)] = lambda: value
            self.has_left = True

    def write(self, value: object) -> None:
        """Note that a tensor is written into, which may be somebody else's."""
        if isinstance(value, Tensor) and memory_of(value) not in self._own_memory:
            self.has_left = True

    def end(self, returned: object) -> tuple[dict[int, Value], dict[int, Value]]:
        """Return what is alive when it ends, by id: what is left, and what the node keeps.

        Args:
            returned: What the function returned, in its graph.
        """
        kept = {id(each) for each in _kept(returned)}
        alive = {name: value for name, value in self._taken.items() if value() is not None}
        left = {name: value for name, value in alive.items() if name not in kept}
        self.has_left |= bool(left)
        return left, {name: value for name, value in alive.items() if name in kept}

    def names(self) -> Iterable[int]:
        """Return the ids of what was taken."""
        return self._taken.keys()


def memory_of(tensor: Tensor) -> int | None:
    """Return where a tensor's memory begins; None if it has none, as of torch.func."""
    try:
        return tensor.untyped_storage().data_ptr()
    except Exception:  # whatever a class of its own raises
        return None


def tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    """Go through the tensors among arguments, and those in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (each for each in value if isinstance(each, Tensor))


def is_in_graph(value: object) -> bool:
    """Say whether what a function returned has a graph, and so a derivative."""
    return isinstance(value, Tensor) and value.requires_grad


def _kept(returned: object) -> Iterator[object]:
    """Yield what is in the graph, and what the node keeps, as far as asking changes nothing.

    A result without a graph is somebody else's, whether or not the node keeps it as well.
    """
    outputs = returned if isinstance(returned, tuple) else (returned,)
    in_graph = [each for each in outputs if isinstance(each, Tensor) and each.requires_grad]
    yield from in_graph
    outside = {id(each) for each in outputs if not is_in_graph(each)}
    yield from (each for each in _of_nodes(in_graph) if id(each) not in outside)


def _of_nodes(in_graph: Sequence[Tensor]) -> Iterator[object]:
    nodes = {id(each.grad_fn): each.grad_fn for each in in_graph}
    for node in nodes.values():
        if isinstance(node, BackwardCFunction):
            yield from tree_leaves(vars(node))
            if _HOOKS(True) is None:  # else something is called, as for a checkpoint
                yield from _saved(node)


_HOOKS: Callable[[bool], Any] = torch._C._autograd._top_saved_tensors_default_hooks  # pyright: ignore[reportAttributeAccessIssue] (torch's own)


def _saved(node: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 (torch makes its class)
    with torch._C.DisableTorchFunction():
        return node.saved_tensors
