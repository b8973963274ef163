"""Batch normalizations that update their running statistics by code of their own.

A subclass that writes its statistics itself, instead of handing them to ``batch_norm``, has buffers
like any other module that moves some.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from engine.routine.module.buffers.moving import after_a_call, differs
from engine.torch_modes import FunctionMode

if TYPE_CHECKING:
    from engine.routine.module.held_module import HeldModule

_TORCHS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_PLACES = {functional.batch_norm: (1, 2), torch.batch_norm: (3, 4)}
"""Where each function is given the statistics."""


def with_own_rules(routine: "HeldModule", layers: Mapping[str, _BatchNorm]) -> frozenset[str]:
    """Return the layers, by name, whose code moves statistics that ``batch_norm`` leaves alone.

    Cost:
        A forward pass of a batch where a layer has a forward pass of its own; else nothing.
    """
    suspects = [name for name, layer in layers.items() if type(layer).forward not in _TORCHS]
    if not suspects:
        return frozenset()
    keys = {
        f"{name}.{kind}" if name else kind: name
        for name in suspects
        for kind in ("running_mean", "running_var")
    }
    buffers = dict(routine.model.named_buffers())
    before = {key: buffers[key].detach().clone() for key in keys if key in buffers}
    with _StatisticsStay():
        ends = after_a_call(routine, before)
    return frozenset(keys[key] for key, end in ends.items() if differs(end, before[key]))


class _StatisticsStay(FunctionMode):
    """Normalizes by the batch without moving the statistics."""

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``; ``batch_norm`` with copies of what it would write into."""
        if function in _PLACES:
            args = tuple(
                each.clone() if at in _PLACES[function] and each is not None else each
                for at, each in enumerate(args)
            )
            kwargs = {
                name: each.clone() if name.startswith("running_") and each is not None else each
                for name, each in kwargs.items()
            }
        return function(*args, **kwargs)
