"""Refuses trainable tensors that a loss or an output reads from outside of the module.

A trainable tensor that the loss reads outside of the module it is given is a constant to the
engine and moves in the user's own training, so a metagradient would be that of another run.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import engine.errors
from engine.errors import WitnessError

_ENGINE = str(Path(engine.errors.__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Leaf:
    """A tensor at which a graph begins.

    Attributes:
        tensor: It requires a gradient.
        line: Where the user's code reads it, as file and line; empty if that is not known.
    """

    tensor: Tensor
    line: str = ""


def lasting_leaves(function: Callable[[], Tensor], own: Sequence[Tensor]) -> list[Leaf]:
    """Return the leaves of a function's graph that are not among ``own`` and outlast a call.

    One that a call makes anew (an input that is told to require a gradient) is no parameter.
    """
    first = foreign_leaves(function(), own)  # kept alive, so that no identity comes again
    lasting = {id(leaf.tensor) for leaf in first}
    again = foreign_leaves(with_lines(function), own)
    return [leaf for leaf in again if id(leaf.tensor) in lasting]


def foreign_leaves(value: Tensor, own: Sequence[Tensor]) -> list[Leaf]:
    """Return the leaves of a graph that require a gradient and are not among ``own``."""
    known = {id(tensor) for tensor in own}
    found: dict[int, Leaf] = {}
    for node, consumer in _nodes(value):
        tensor = getattr(node, "variable", None)
        if isinstance(tensor, Tensor) and id(tensor) not in known:
            found.setdefault(id(tensor), Leaf(tensor, _line_of(consumer)))
    return list(found.values())


def refuse_leaves(
    module: nn.Module, where: str, function: Callable[[], Tensor], own: Sequence[Tensor]
) -> None:
    """Refuse a function whose graph begins at tensors that are not among ``own``.

    Args:
        module: The one that was handed in, for names.
        where: Name of the function, for messages.
        function: Returns the tensor whose graph it is.
        own: Tensors that the engine knows.

    Raises:
        WitnessError: Names the tensors, and the lines that read them.
    """
    leaves = lasting_leaves(function, own)
    if not leaves:
        return
    words = "; ".join(words_for(leaf, module) for leaf in leaves[:3])
    raise WitnessError(
        f"The {where} reads {words}. It would stay as it is during the whole run, so the "
        "metagradient would be that of another run. Read parameters from the module that the "
        f"{where} is given, make what should be trained a submodule or parameter of it, and "
        "detach what should stay constant: x = x.detach().requires_grad_() for data whose gradient "
        "is wanted."
    )


def with_lines(function: Callable[[], Tensor]) -> Tensor:
    """Call a function while every node of the graph notes the line of code that made it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly(check_nan=False):
            return function()


def words_for(leaf: Leaf, module: nn.Module) -> str:
    """Say which tensor a leaf is, and where it is read."""
    names = [name for name, tensor in module.named_parameters() if tensor is leaf.tensor]
    shape = tuple(leaf.tensor.shape)
    what = (
        f"the parameter {names[0]!r} of the module that you handed in, instead of that of the "
        "module that it is given,"
        if names
        else f"a tensor of shape {shape} that requires a gradient and is not a parameter of "
        "the module that it is given,"
    )
    return f"{what}{f' at {leaf.line}' if leaf.line else ''}"


def _nodes(value: Tensor) -> Iterator[tuple[Any, Any]]:
    """Yield every node of a graph, and one that reads it."""
    waiting, seen = [(value.grad_fn, None)], set()
    while waiting:
        node, consumer = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node, consumer
        waiting += [(following, node) for following, _ in node.next_functions]


def _line_of(node: Any) -> str:  # noqa: ANN401 (a node of autograd's graph)
    frames = [] if node is None else node.metadata.get("traceback_", [])
    for frame in reversed(frames):
        place = frame.strip().splitlines()[0]
        if place.startswith("File") and _ENGINE not in place and _TORCH not in place:
            file, _, rest = place.removeprefix('File "').partition('", line ')
            return f"{file}:{rest.partition(',')[0]}"
    return ""
