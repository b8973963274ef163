"""Figures of an attribution: LDS against the share removed, predictions, and examples to see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.reports.canvas import BLUE, GREEN, GREY, ORANGE, WIDTH, new_figure, png
from engine.reports.intervals import Interval

COLOURS = (BLUE, ORANGE, GREEN, GREY)
SHOWN = 5
"""Helpful, and harmful, examples that are shown for a query."""


@dataclass(frozen=True)
class Examined:
    """A query and the scores of all training examples for it.

    Attributes:
        image: Pixels of the query, shape (channels, height, width).
        label: Its class.
        scores: tau of the query, shape (examples,).
    """

    image: Tensor
    label: int
    scores: Tensor


def draw_datamodeling(lds: Mapping[str, Mapping[float, Interval]]) -> bytes:
    """Draw the LDS of each method against the percentage that is left out, as a PNG image."""
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
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.02))
    return png(figure)


def draw_prediction(points: Mapping[float, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """Draw the change of one query's loss against its prediction, a panel for each percentage."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    columns = min(len(points), 2)  # more leave no room for the numbers beside the ticks
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(WIDTH, 2.5 * rows), layout="constrained")
    for place, (drop, (predicted, actual)) in enumerate(points.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.spines[["top", "right"]].set_visible(False)
        low, high = min(*predicted, *actual), max(*predicted, *actual)
        axes.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=0)
        axes.plot(predicted, actual, "o", color=BLUE, markersize=3)
        axes.locator_params(nbins=4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.tick_params(labelsize=8)
        axes.set_title(f"{drop:g} % left out", fontsize=10)
        axes.set_xlabel("predicted change", fontsize=9)
        if place % columns == 0:
            axes.set_ylabel("change of the loss", fontsize=9)
    return png(figure)


def draw_examples(
    queries: Sequence[Examined], images: Tensor, labels: Tensor, names: Sequence[str] | None = None
) -> bytes:
    """Draw queries, each beside the examples that help and harm it most.

    Args:
        queries: One row each.
        images: Of all training examples, shape (examples, channels, height, width).
        labels: Their classes, as they were trained on.
        names: Of the classes; numbers by default.
    """
    from matplotlib.figure import Figure

    columns = 1 + 2 * SHOWN
    figure = Figure(figsize=(WIDTH, 0.95 * len(queries) + 0.3), layout="constrained")
    low, high = float(images.min()), float(images.max())
    called = names or [str(number) for number in range(int(labels.max()) + 1)]

    def show(row: int, column: int, image: Tensor, title: str, colour: str) -> None:
        axes = figure.add_subplot(len(queries), columns, row * columns + column + 1)
        axes.imshow(
            image.to(torch.float64).mean(dim=0).numpy(),
            cmap="gray_r",
            vmin=low,
            vmax=high,
            interpolation="nearest",
        )
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=8, color=colour, pad=2)
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=1.5)

    for row, query in enumerate(queries):
        order = query.scores.argsort().tolist()
        show(row, 0, query.image, f"query: {called[query.label]}", "black")
        # A negative score says that more of the example lowers the query's loss.
        for place, index in enumerate([*order[:SHOWN], *order[: -SHOWN - 1 : -1]]):
            colour = BLUE if place < SHOWN else ORANGE
            title = f"{called[int(labels[index])]} ({float(query.scores[index]):+.0e})"
            show(row, 1 + place, images[index], title, colour)
    return png(figure)
