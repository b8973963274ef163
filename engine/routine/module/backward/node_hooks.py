"""Hooks of nodes of the graph, ``grad_fn.register_hook``, which products pass by.

Torch shows nobody the hooks of a node, and its nodes take no other methods. So while a module is
called, the user's code gets a node in a wrapper, which registers hooks that know of products, and
is the node in everything else.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from engine.routine.module.stop_gradient import PASSES
from engine.torch_modes import expect_backward_code

_NODE: Any = Tensor.grad_fn
_EDGE: Any = GradientEdge
_NEW_EDGE: Any = GradientEdge.__new__


def in_gradients(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that products pass by."""
    expect_backward_code()

    @wraps(hook)
    def hook_outside_products(*args: Any) -> Any:  # noqa: ANN401 (as the hook)
        return None if PASSES.is_product else hook(*args)

    return hook_outside_products


class _Node:
    """A node of the graph, whose hooks products pass by.

    Args:
        node: Torch's own.
    """

    def __init__(self, node: Any) -> None:  # noqa: ANN401 (torch's)
        vars(self)["_node"] = node

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (as the node)
        return getattr(vars(self)["_node"], name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 (likewise)
        setattr(vars(self)["_node"], name, value)

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride] (for isinstance)
        """The class of the node, for those who ask what operation it is of."""
        return type(vars(self)["_node"])

    def __eq__(self, other: object) -> bool:
        return vars(self)["_node"] is _own(other)

    def __hash__(self) -> int:
        return hash(vars(self)["_node"])

    def __repr__(self) -> str:
        return repr(vars(self)["_node"])

    def __call__(self, *args: Any) -> Any:  # noqa: ANN401 (as the node)
        return vars(self)["_node"](*args)

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes before it, of which hooks are registered as well."""
        before = vars(self)["_node"].next_functions
        return tuple((None if node is None else _Node(node), place) for node, place in before)

    def register_hook(self, hook: Callable[..., Any]) -> Any:  # noqa: ANN401 (torch's handle)
        """Register a hook that is given what the node hands on, and what came to it."""
        return vars(self)["_node"].register_hook(in_gradients(hook))

    def register_prehook(self, hook: Callable[..., Any]) -> Any:  # noqa: ANN401 (torch's handle)
        """Register a hook that is given what comes to the node."""
        return vars(self)["_node"].register_prehook(in_gradients(hook))


def _own(node: Any) -> Any:  # noqa: ANN401 (whatever is taken for a node)
    """Return the node of torch behind a wrapped one."""
    return vars(node)["_node"] if type(node) is _Node else node


class _Asked:
    """Takes the place of ``Tensor.grad_fn``: torch and the engine get nodes as they are."""

    def __get__(self, tensor: Tensor | None, owner: type | None = None) -> Any:  # noqa: ANN401 (torch's)
        if tensor is None:  # modes are told of the descriptor of torch's own
            return _NODE
        node = _NODE.__get__(tensor)
        if node is None or torch.compiler.is_compiling():
            return node
        frame: Any = sys._getframe(1)
        while frame.f_code.co_name == "__get__":  # of a decorator that checks types
            frame = frame.f_back
        asks = frame.f_globals.get("__name__", "").partition(".")[0]
        return node if asks in ("torch", "engine") else _Node(node)

    def __set__(self, tensor: Tensor, value: object) -> None:
        _NODE.__set__(tensor, value)  # which torch refuses


def _edge(kind: Any, node: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 (as torch's)
    return _NEW_EDGE(kind, _own(node), *rest, **more)


class hooks_of_nodes(AbstractContextManager[None]):
    """Let products pass by the hooks of nodes that user code registers inside the block."""

    def __enter__(self) -> None:
        Tensor.grad_fn = _Asked()  # pyright: ignore[reportAttributeAccessIssue] (a descriptor of torch's)
        _EDGE.__new__ = _edge

    def __exit__(self, *_: object) -> None:
        del Tensor.grad_fn
        _EDGE.__new__ = _NEW_EDGE
