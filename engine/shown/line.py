"""Objects in one line: what they are, how large, between which numbers; never their tensors."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

_LONGEST = 60
"""Characters of a setting that are shown."""


def shown_tensor(tensor: Tensor) -> str:
    """Return size and range of a tensor, e.g. ``100 from 0 to 2`` or ``12x3 from -1 to 0.5``."""
    size = "x".join(map(str, tensor.shape)) or "1"
    if tensor.numel() == 0 or tensor.is_meta:
        return size
    low, high = (float(found) for found in torch.aminmax(tensor.detach()))
    return f"{size} of {low:.4g}" if low == high else f"{size} from {low:.4g} to {high:.4g}"


def shown_value(value: Any) -> str:  # noqa: ANN401 (any field of an object)
    """Return a setting in one line: tensors by size, functions by name, long ones cut off."""
    if isinstance(value, Tensor):
        return "x".join(map(str, value.shape)) or f"{value.item():.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown_value(each)}" for name, each in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and len(value) > 4:
        return f"{len(value)} from {shown_value(value[0])} to {shown_value(value[-1])}"
    text = getattr(value, "__name__", None) or " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def shown_fields(thing: Any, leave_out: tuple[str, ...] = ()) -> str:  # noqa: ANN401 (a dataclass)
    """Return the fields of a dataclass that say something: not those that are empty."""
    found = {
        each.name: getattr(thing, each.name)
        for each in fields(thing)
        if each.repr and each.name not in leave_out
    }
    kept = {n: v for n, v in found.items() if isinstance(v, Tensor) or v not in (None, (), "", {})}
    return ", ".join(f"{name} {shown_value(value)}" for name, value in kept.items())


def in_words(thing: Any, line: Callable[[], str]) -> str:  # noqa: ANN401 (any object)
    """Return the line of an object, or its class alone while its parts are not what they should be.

    A debugger, or a test that fails, shows objects whose constructor is about to refuse them. What
    it shows must not be another error.

    Args:
        thing: The object.
        line: Makes the line of one that is whole.
    """
    try:
        return line()
    except Exception as error:  # whatever a part of the wrong type raises
        return f"{type(thing).__name__}(not whole: {type(error).__name__})"
