"""Inputs as pictures: how they were, how they are, and what has changed between, made visible."""

import io
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.reports.page import as_source

CHANGE = "RdBu_r"
"""Colours of a change: red is brighter, blue is darker, and white is as it was."""


def as_picture(values: Tensor) -> Tensor:
    """Return an input as a picture: channels are averaged, and a row of a table is one line."""
    if values.ndim < 2:
        return values.reshape(1, -1)
    return values.reshape(-1, *values.shape[-2:]).mean(dim=0)


def picture(values: Tensor, low: float, high: float, colours: str = "gray") -> str:
    """Return an input as a PNG image, as a page holds it.

    Args:
        values: Shape (channels, height, width), (height, width) or (numbers,); three channels are
            red, green and blue.
        low: Value of the darkest pixel.
        high: Value of the brightest one.
        colours: Map of matplotlib, for anything but three channels.
    """
    from matplotlib.image import imsave

    stream, values = io.BytesIO(), values.to(torch.float64)
    if values.ndim == 3 and len(values) == 3 and colours == "gray":
        pixels = ((values - low) / max(high - low, 1e-12)).clamp(0, 1).permute(1, 2, 0)
        imsave(stream, pixels.numpy(), format="png")
    else:
        shown = as_picture(values).numpy()
        imsave(stream, shown, format="png", cmap=colours, vmin=low, vmax=high)
    return as_source(stream.getvalue())


def alone(values: Tensor) -> str:
    """Return an input as a picture on its own scale."""
    low, high = float(values.min()), float(values.max())
    return picture(values, low, max(high, low + 1e-12))


def changes(before: Tensor, after: Tensor) -> list[Mapping[str, str]]:
    """Return each input before and after on one scale of grey, and the change between, amplified.

    All changes are amplified alike, until the largest is as large as the inputs' whole range.

    Args:
        before: Shape (inputs, ...).
        after: Likewise.
    """
    before, after = before.to(torch.float64), after.to(torch.float64)
    change = after - before
    low, high = float(torch.minimum(before, after).min()), float(torch.maximum(before, after).max())
    reach = max(float(change.abs().max()), 1e-12)
    factor = (high - low) / reach
    shown = f"change ×{factor:.2g}" if factor >= 1.1 else "change"
    return [
        {
            "before": picture(old, low, high),
            "after": picture(new, low, high),
            shown: picture(moved, -reach, reach, CHANGE),
        }
        for old, new, moved in zip(before, after, change, strict=True)
    ]
