"""Figures of an attribution: LDS against the share removed, and predictions."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from torch import Tensor

from engine.reports.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SMALL,
    is_narrow,
    legend,
    new_figure,
    small_multiples,
)
from engine.reports.intervals import Interval

if TYPE_CHECKING:
    import matplotlib.figure

COLOURS = (BLUE, ORANGE, GREEN, GREY)
MARKERS = ("o", "s", "^", "D")


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


def draw_basis(
    errors: Sequence[Sequence[float]], outside: Mapping[str, Sequence[float]]
) -> "matplotlib.figure.Figure":
    """Draw the error of a basis of queries against the number of its directions.

    Args:
        errors: Relative errors of each query by the first 1, 2, ... directions.
        outside: ``median`` and ``largest`` share outside of the first 0, 1, ... directions.
    """
    figure, (axes,) = new_figure(3.4)
    for number, each in enumerate(errors):
        label = None if number else "error of a query's scores"
        axes.plot(
            range(1, len(each) + 1), each, color=ORANGE, marker="o", markersize=3, label=label
        )
    for name, style in (("median", "-"), ("largest", "--")):
        label = f"derivative outside, {name}"
        axes.plot(range(len(outside[name])), outside[name], style, color=BLUE, label=label)
    axes.set(xlabel="directions swept", ylabel="share, in norm")
    axes.set_ylim(bottom=0)
    legend(axes, 3)
    return figure


def draw_predictions(
    points: Mapping[float, tuple[Tensor, Tensor]], queries: Sequence[int], lds: Sequence[float]
) -> "matplotlib.figure.Figure":
    """Draw the change of each query's loss against its prediction, a small square for each query.

    Args:
        points: Percentage left out to predicted and measured changes, shape (subsets, queries).
        queries: Which are drawn, by their numbers.
        lds: LDS of each query that has one.
    """
    from matplotlib.lines import Line2D

    columns = 2 if is_narrow() else 4
    figure, squares = small_multiples(len(queries), -(-len(points) // columns))
    shares = sorted(points, reverse=True)  # the largest changes below, or they would hide others
    look = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    looks = dict(zip(sorted(points), look, strict=False))
    to = "\N{HORIZONTAL ELLIPSIS}" if is_narrow() else " \N{HORIZONTAL ELLIPSIS} "
    for axes, query in zip(squares, queries, strict=True):
        found = {share: [each[:, query].tolist() for each in points[share]] for share in shares}
        for share, (predicted, actual) in found.items():
            colour, marker = looks[share]
            axes.plot(predicted, actual, marker, color=colour, markersize=2, clip_on=False)
        low, high = ends([value for pair in found.values() for each in pair for value in each])
        axes.plot([low, high], [low, high], color=GREY, linewidth=0.8, zorder=0)
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.set_title(f"query {query}: {lds[query]:.2f}", fontsize=SMALL, pad=3)
        axes.set_xlabel(f"{low:g}{to}{high:g}", fontsize=SMALL, labelpad=2)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4)
        for colour, marker in looks.values()
    ]
    names = [f"{share:g} % left out" for share in looks]
    figure.legend(
        handles, names, frameon=False, ncols=columns, loc="upper left", bbox_to_anchor=(0, 1),
        fontsize=SMALL, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip
    return figure


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis with all values and 0 inside.

    They have as few digits as there is room for below a square: one, and the larger one two.
    """
    low, high = min(0.0, *values), max(0.0, *values)
    digits = (1, 2) if abs(low) <= high else (2, 1)
    low, high = 0.0 - _outward(-low, digits[0]), _outward(high, digits[1])
    return (low, high) if low < high else (-1.0, 1.0)


def _outward(value: float, digits: int) -> float:
    """Round a value that is not negative up to so many digits."""
    if value <= 0:
        return 0.0
    place = digits - 1 - math.floor(math.log10(value))
    return float(f"{math.ceil(value * 10**place) / 10**place:.{digits}g}")
