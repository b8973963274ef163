"""Inputs as pictures: how they were, how they are, and what has changed between."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.reports.canvas import WIDTH

if TYPE_CHECKING:
    import matplotlib.figure


def as_picture(values: Tensor) -> Tensor:
    """Return an input as a picture: channels are averaged, and a row of a table is one line."""
    if values.ndim < 2:
        return values.reshape(1, -1)
    return values.reshape(-1, *values.shape[-2:]).mean(dim=0)


def draw_changes(
    before: Tensor, after: Tensor, *, titles: Sequence[str] = (), columns: int | None = None
) -> "matplotlib.figure.Figure":
    """Draw inputs before and after on one scale of grey, and the change between (red brighter).

    Args:
        before: Shape (inputs, ...).
        after: Likewise.
        titles: Of each column; none by default.
        columns: For how many there is room, if for more than there are.
    """
    from matplotlib.figure import Figure

    before, after = before.to(torch.float64), after.to(torch.float64)
    change, room = after - before, columns or len(before)
    low, high = float(torch.minimum(before, after).min()), float(torch.maximum(before, after).max())
    reach = max(float(change.abs().max()), 1e-12)
    rows = {
        "before": (before, "gray", low, high),
        "after": (after, "gray", low, high),
        "change": (change, "RdBu_r", -reach, reach),
    }
    figure = Figure(figsize=(WIDTH, 3.5 if titles else 3.0), layout="constrained")
    for row, (label, (inputs, colours, bottom, top)) in enumerate(rows.items()):
        for column, values in enumerate(inputs):
            axes = figure.add_subplot(3, room, row * room + column + 1)
            axes.imshow(
                as_picture(values).numpy(),
                cmap=colours,
                vmin=bottom,
                vmax=top,
                interpolation="nearest",
            )
            axes.set(xticks=[], yticks=[])
            if row == 0 and titles:
                axes.set_title(titles[column], fontsize=9)
            if column == 0:
                axes.set_ylabel(label)
    return figure
