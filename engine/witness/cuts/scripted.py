"""Scripted and traced functions that take something out of the graph, which nobody listens to."""

from collections.abc import Iterator
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from engine.routine.optimizer import Optimizer
from engine.routine.routine import Routine
from engine.witness.memory.kept import parts_of

_MOST = 5000
"""Objects that are looked at: what reaches more is a library, or data."""

_TAKE_OUT = (
    *("aten::detach", "prim::data", "no_grad", "set_grad_enabled"),
    *("aten::item", "aten::Float", "aten::Complex", "aten::ScalarImplicit"),
)
"""What stands in the code of a scripted function that takes something out of the graph."""


def scripted_cuts(routine: Routine) -> list[str]:
    """Return the names of the scripted functions and modules of a run that may cut.

    Cost:
        A look at what loss, update and module reach; milliseconds, once.
    """
    found: dict[str, None] = {}
    waiting: list[object] = [routine.loss, routine.optimizer, routine.model, routine.given]
    seen: dict[int, object] = {}
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        with suppress(Exception):  # of objects that answer to everything
            if isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
                if _may_cut(value):
                    found[str(getattr(value, "original_name", "") or value.name)] = None
            else:
                waiting += _parts(value)
    return [*found]


def _may_cut(scripted: Any) -> bool:  # noqa: ANN401 (torch's own kinds)
    text = str(scripted.inlined_graph)
    return any(each in text for each in _TAKE_OUT)


def _parts(value: Any) -> Iterator[object]:  # noqa: ANN401 (any object)
    if isinstance(value, nn.Module):
        yield from value.children()
        yield from vars(value).values()
        for kind in type(value).__mro__:
            if not kind.__module__.startswith("torch."):
                yield from vars(kind).values()
    elif isinstance(value, FunctionType | MethodType | Optimizer) or not isinstance(value, type):
        yield from (each for _, each in parts_of(value))
