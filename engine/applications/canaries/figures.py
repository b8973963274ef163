"""Figures of privacy canaries: losses IN and OUT, and the gap over the steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.reports.canvas import BLUE, GREY, INK, ORANGE, legend, lying, new_figure, whole_numbers

if TYPE_CHECKING:
    import matplotlib.figure


def draw_losses(
    losses: Mapping[str, tuple[Tensor, Tensor]], gaps: Sequence[float]
) -> "matplotlib.figure.Figure":
    """Draw the losses IN and OUT of each kind of canaries, and the gap of each outer step.

    Args:
        losses: Kind of canaries to its losses IN and OUT.
        gaps: Gap in each outer step's own training.
    """
    figure, (above, below) = new_figure(5.4, rows=2)
    for place, pair in enumerate(losses.values()):
        for shift, colour, values in zip((0.12, -0.12), (BLUE, ORANGE), pair, strict=True):
            low, high = torch.quantile(values.double(), torch.tensor([0.25, 0.75]).double())
            height = place - shift
            above.plot([float(low), float(high)], [height] * 2, color=colour, linewidth=5)
            above.plot(float(values.mean()), height, "o", color=INK, markersize=5)
    above.plot([], [], color=BLUE, linewidth=5, label="trained on (IN)")
    above.plot([], [], color=ORANGE, linewidth=5, label="left out (OUT)")
    above.set_yticks(range(len(losses)), list(losses))
    above.set_ylim(len(losses) - 0.5, -0.5)
    lying(above)
    above.set(xlabel="loss (nats)")
    legend(above)
    below.plot(range(len(gaps)), gaps, color=BLUE, marker="o", markersize=3)
    below.axhline(0, color=GREY, linewidth=1, zorder=0)
    whole_numbers(below)
    below.set(xlabel="outer step", ylabel="gap (nats)")
    return figure
