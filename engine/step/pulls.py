"""Pull cotangents through one graph, by a direct call of torch's engine where this torch has one.

``torch.autograd.grad`` asks first whether sizes are symbols, for which it loads sympy: a second at
every start, and a thirtieth of a small step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.routine.module.stop_gradient import whole_derivatives
from engine.torch_modes import users_code

try:
    from torch.autograd.graph import _engine_run_backward as _engine
except ImportError:  # a name of torch's own
    _engine = None


def pulls(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    rows: Sequence[Sequence[Tensor]],
    *,
    together: bool = False,
) -> list[Sequence[Tensor | None]]:
    """Pull each row of cotangents of ``outputs`` through one graph, and free it.

    Args:
        outputs: Outputs with a graph.
        inputs: What cotangents are wanted of; None for one that nothing depends on.
        rows: K rows of cotangents, each shaped as ``outputs``.
        together: Pull all of them in one pass, whose sums run in another order than one by one.
    """
    if together and len(rows) > 1:
        with whole_derivatives():
            return _pulled_together(outputs, inputs, rows)
    last = len(rows) - 1
    return [pull(outputs, inputs, row, keep=i < last) for i, row in enumerate(rows)]


def _pulled_together(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], rows: Sequence[Sequence[Tensor]]
) -> list[Sequence[Tensor | None]]:
    stacked = [torch.stack(list(each)) for each in zip(*rows, strict=True)]
    found = torch.autograd.grad(outputs, inputs, stacked, allow_unused=True, is_grads_batched=True)
    return [[None if t is None else t[i] for t in found] for i in range(len(rows))]


def pull(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], row: Sequence[Tensor], *, keep: bool
) -> Sequence[Tensor | None]:
    """Pull one row back, and free the graph unless it is kept; None where nothing depends."""
    if _engine is None:
        with whole_derivatives():
            return torch.autograd.grad(outputs, inputs, row, allow_unused=True, retain_graph=keep)
    for output, cotangent in zip(outputs, row, strict=True):
        if output.shape != cotangent.shape:  # the engine would add up what it can
            raise RuntimeError(
                f"A cotangent of shape {tuple(cotangent.shape)} was given for a result of shape "
                f"{tuple(output.shape)}."
            )
    with whole_derivatives():
        return _engine(
            tuple(outputs), tuple(row), keep, False, tuple(inputs), True, accumulate_grad=False
        )


def pull_through_every_node(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], row: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Pull one row back as ``pulls`` does, through nodes that lead to none of the inputs too.

    ``pulls`` asks for the cotangents of named inputs, and torch then runs only the nodes on a path
    to them. A function marked ``once_differentiable`` has no such path: its part would be missing
    without an error.

    Args:
        outputs: Outputs with a graph, which is freed.
        inputs: Leaves of it that hold no ``.grad``.
        row: Cotangents, shaped as ``outputs``.
    """
    with whole_derivatives():
        if _engine is None:
            torch.autograd.backward(outputs, row)
        else:
            _engine(tuple(outputs), tuple(row), False, False, (), True, accumulate_grad=True)
    found = [leaf.grad for leaf in inputs]
    for leaf in inputs:
        leaf.grad = None
    return found


def gradient_of(loss: Tensor, source: Tensor, *, create_graph: bool) -> Tensor | None:
    """Return the gradient of a scalar as ``torch.autograd.grad`` does; None without dependence."""
    return gradients_of(loss, [source], create_graph=create_graph)[0]


def gradients_of(
    loss: Tensor, sources: Sequence[Tensor], *, create_graph: bool
) -> Sequence[Tensor | None]:
    """Return the gradient of a scalar by several tensors; None for one without dependence.

    A mode of torch is told of what hooks and custom functions call in it, which it is not inside of
    ``torch.autograd.grad``.
    """
    if _engine is None:
        return torch.autograd.grad(loss, sources, create_graph=create_graph, allow_unused=True)
    with users_code():
        return _engine(
            (loss,),
            (torch.ones_like(loss),),
            create_graph,
            create_graph,
            tuple(sources),
            True,
            accumulate_grad=False,
        )
