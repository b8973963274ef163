"""Arguments of torch's normalizing functions, and their formula in evaluation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BATCH_NORM: dict[str, Any] = {
    "input": None,
    "running_mean": None,
    "running_var": None,
    "weight": None,
    "bias": None,
    "training": False,
    "momentum": 0.1,
    "eps": 1e-5,
}

INSTANCE_NORM: dict[str, Any] = {
    "input": None,
    "running_mean": None,
    "running_var": None,
    "weight": None,
    "bias": None,
    "use_input_stats": True,
    "momentum": 0.1,
    "eps": 1e-5,
}


def bound(
    names: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return arguments by name, given in the order of ``names``."""
    return {**names, **dict(zip(names, args, strict=False)), **kwargs}


def normalized(inputs: Tensor, mean: Tensor, variance: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps), scaled and shifted, channels on axis 1.

    Args:
        inputs: x, shape (batch, channels, ...).
        mean: Shape (channels,).
        variance: Likewise.
        given: ``weight`` and ``bias``, of that shape or None, and ``eps``.
    """
    shape = [1, -1, *[1] * (inputs.ndim - 2)]
    scale = torch.rsqrt(variance + given["eps"])
    found = (inputs - mean.view(shape)) * scale.view(shape)
    if given["weight"] is not None:
        found = found * given["weight"].view(shape)
    return found if given["bias"] is None else found + given["bias"].view(shape)
