"""Names what modules keep from call to call in plain attributes, where something was refused.

A running mean that is an attribute and no buffer is in no state: nobody replays it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

_Number = Tensor | int | float
_MOST = 1000
"""Parts of a list or a dictionary that are looked at."""


def kept_from_call_to_call(module: nn.Module, call: Callable[[], object]) -> str:
    """Say which plain attributes of a module a call of it leaves as others; empty if none.

    Args:
        module: The one that is called.
        call: Calls it in training.

    Cost:
        The call, and copies of the tensors that are such attributes.
    """
    before = {name: _copy_of(value) for name, value in _attributes(module)}
    with suppress(Exception):  # told elsewhere
        call()
    moved = [n for n, value in _attributes(module) if n in before and _differs(before[n], value)]
    if not moved:
        return ""
    return (
        f"The module keeps {', '.join(map(repr, moved[:3]))} from call to call in a plain "
        "attribute, which is in no state. Make it a buffer, also of a single number: "
        "self.register_buffer(name, torch.zeros(...)) in __init__, written at every step of "
        "training. It is then saved, replayed and differentiated."
    )


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for prefix, part in module.named_modules():
        for key, value in vars(part).items():
            if not key.startswith("_") and key != "training":
                yield from _numbers(f"{prefix}.{key}" if prefix else key, value)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (any attribute)
    if isinstance(value, _Number):
        yield name, value
    elif isinstance(value, dict) and len(value) <= _MOST:
        for key, part in value.items():
            if isinstance(part, _Number):
                yield f"{name}[{key!r}]", part
    elif isinstance(value, list) and len(value) <= _MOST:
        for number, part in enumerate(value):
            if isinstance(part, _Number):
                yield f"{name}[{number}]", part


def _copy_of(value: _Number) -> _Number:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _differs(one: _Number, other: _Number) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            return True
        return one.shape != other.shape or not torch.equal(one, other.detach())
    return one != other
