"""Values that a step holds constant although they move from step to step, with a right derivative.

``detach()`` takes a value out of the graph for good. The gradient of a step is then what its author
meant, but the derivative of that gradient, which a metagradient is made of, lacks what the value
does: a target that stays in place within a step moves with the parameters from one to the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.numerics.determinism import PROCESS


class _Passes:
    """Which pass of autograd runs, and whether the engine calls the user's code at all.

    Of the process, not of a thread: torch runs the backward pass of a GPU in threads of its own,
    and the engine lets one thread at a time compute (``engine.numerics.determinism.PROCESS``).

    Attributes:
        depth: Blocks of ``Binding.keeping`` that are open.
        is_product: Whether a derivative is pulled back that has to see everything.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.is_product = False


PASSES = _Passes()


@contextmanager
def whole_derivatives() -> Iterator[None]:
    """Let backward passes inside the block go through what ``stop_gradient`` holds.

    For products with the derivative of a gradient, and for derivatives of an output. Every other
    backward pass, such as that of a loss, ends there.
    """
    with PROCESS:
        before, PASSES.is_product = PASSES.is_product, True
        try:
            yield
        finally:
            PASSES.is_product = before


class _Stopped(torch.autograd.Function):
    """The identity, through which only products with a derivative go back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clone()  # people write into what they have detached

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ANN401 (torch's)
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor | None:  # noqa: ANN401 (torch's)  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        return cotangent if PASSES.is_product else None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ANN401 (torch's)  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        return tangent.clone()


def stop_gradient(value: Tensor) -> Tensor:
    """Return a value that a step holds constant: ``detach()`` with a right second derivative.

    Write it where a loss or a model detaches what moves with the parameters: the target of SimSiam
    or of Q-learning, a weight of focal loss, a sample of a generator. Other gradients are made of
    it: a function f with the derivative of g is ``g(x) + stop_gradient(f(x) - g(x))``, such as a
    rounding that lets gradients through, ``x + stop_gradient(x.round() - x)``. What only maps a
    gradient, such as a reversal, may be a hook of the activation, as anywhere in torch.

    Args:
        value: Value of any shape. In place of a block of ``no_grad()`` compute it with a graph, and
            in place of ``autograd.grad(...)`` with ``create_graph=True``.

    Returns:
        The same numbers. Outside of a run of the engine this is ``value.detach()``; inside, no
        gradient of a loss flows to ``value``, and every metagradient sees how it moves.

    Cost:
        Like that of any value with a graph; ``detach()`` saves its part of the backward pass.
        Such a step is reversed by ``reverse-over-reverse``; the other ways differ from it and are
        refused, and ``auto`` takes it.
    """
    if not PASSES.depth or not value.requires_grad:
        return value.detach()
    return _Stopped.apply(value)  # pyright: ignore[reportReturnType]


def is_stop(node: object) -> bool:
    """Say whether a node of a graph is one at which the gradient of a loss ends."""
    return isinstance(node, _Stopped._backward_cls)  # pyright: ignore[reportAttributeAccessIssue] (torch's)


def is_stopping(function: object) -> bool:
    """Say whether a function of autograd's is the one that ``stop_gradient`` applies."""
    return function is _Stopped
