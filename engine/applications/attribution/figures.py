"""Figures of an attribution: LDS against the share removed, and predictions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.reports.canvas import BLUE, GREEN, GREY, ORANGE, SMALL, legend, new_figure
from engine.reports.intervals import Interval

if TYPE_CHECKING:
    import matplotlib.figure

COLOURS = (BLUE, ORANGE, GREEN, GREY)


def draw_datamodeling(lds: Mapping[str, Mapping[float, Interval]]) -> "matplotlib.figure.Figure":
    """Draw the LDS of each method against the percentage that is left out."""
    figure, (axes,) = new_figure(3.4)
    for (name, found), colour in zip(lds.items(), COLOURS, strict=False):
        drops = sorted(found)
        means = [found[drop].mean for drop in drops]
        below = [found[drop].mean - found[drop].low for drop in drops]
        above = [found[drop].high - found[drop].mean for drop in drops]
        axes.errorbar(drops, means, (below, above), color=colour, marker="o", capsize=3, label=name)
    axes.axhline(0, color=GREY, linewidth=1, zorder=0)
    axes.set_xscale("log")
    ticks = sorted({drop for found in lds.values() for drop in found})
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="training examples left out", ylabel="LDS (mean over queries)")
    axes.set_ylim(top=1.05)
    legend(axes, 3)
    return figure


def draw_prediction(
    points: Mapping[float, tuple[Sequence[float], Sequence[float]]],
) -> "matplotlib.figure.Figure":
    """Draw the change of one query's loss against its prediction, a panel for each percentage."""
    from matplotlib.ticker import FuncFormatter

    columns = min(len(points), 2)  # more leave no room for the numbers beside the ticks
    rows = -(-len(points) // columns)
    figure, panels = new_figure(2.5 * rows, rows, columns)
    for axes in panels[len(points) :]:
        axes.set_visible(False)
    for axes, (drop, (predicted, actual)) in zip(panels, points.items(), strict=False):
        low, high = min(*predicted, *actual), max(*predicted, *actual)
        axes.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=0)
        axes.plot(predicted, actual, "o", color=BLUE, markersize=3)
        axes.margins(0.06)
        axes.locator_params(nbins=4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.tick_params(labelsize=SMALL)
        axes.set_title(f"{drop:g} % left out", fontsize=10)
        axes.set_xlabel("predicted change", fontsize=SMALL)
        axes.set_ylabel("change of the loss", fontsize=SMALL)
    return figure
