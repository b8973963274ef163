"""Figures of metasmoothness: the landscape, the directions, and routines against each other."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.preflight.metasmoothness import CHAOS, INDEPENDENT
from engine.recipes.metaparameters import MetaparameterName
from engine.reports.canvas import BLUE, GREY, ORANGE, SMALL, is_narrow, legend, lying, new_figure

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


NULLS = ((CHAOS, "chaos"), (INDEPENDENT, "independent"), (1.0, "smooth"))
"""Values of Definition 2 that a training has for a reason, and the reason."""


@dataclass(frozen=True)
class Point:
    """A routine in the plane of loss and metasmoothness."""

    name: str
    loss: float
    score: float
    pareto: bool


def draw_landscape(
    heights: Sequence[tuple[float, float]], step: float, kind: MetaparameterName
) -> "matplotlib.figure.Figure":
    """Draw the output along a direction.

    Args:
        heights: Distance along the direction to the output, in order.
        step: h; the three points that the definitions compare are marked.
        kind: What the direction moves.
    """
    figure, (axes,) = new_figure(3.4)
    distances, values = [d for d, _ in heights], [value for _, value in heights]
    axes.plot(distances, values, color=BLUE, marker="o", markersize=4, label="output")
    compared = [(d, v) for d, v in heights if any(abs(d - k * step) < step / 4 for k in range(3))]
    axes.plot(
        [d for d, _ in compared],
        [v for _, v in compared],
        "o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=ORANGE,
        label="z, z + h v, z + 2 h v",
    )
    low, high = min(values), max(values)
    margin = max(0.15 * (high - low), 0.005 * abs(high))
    axes.set_ylim(low - margin, high + margin)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set(xlabel=f"distance along v ({kind.value})", ylabel="objective loss (nats)")
    legend(axes)
    return figure


def draw_directions(agreements: Sequence[float | None], mean: float) -> "matplotlib.figure.Figure":
    """Draw Definition 2 along each direction, and what it would be by itself.

    Args:
        agreements: Agreements by direction; None where nothing moved.
        mean: Over the others.
    """
    figure, (axes,) = new_figure(1.5 + 0.12 * len(agreements))
    lying(axes)
    for value, name in NULLS:
        axes.axvline(value, color=GREY, linestyle="--", linewidth=1, zorder=0)
        axes.annotate(
            name,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=GREY,
            fontsize=SMALL,
        )
    found = [(value, place) for place, value in enumerate(agreements) if value is not None]
    axes.plot([v for v, _ in found], [p for _, p in found], "o", color=BLUE, label="a direction")
    axes.axvline(mean, color=ORANGE, linewidth=1.5, label="mean", zorder=1)
    axes.set_yticks(range(len(agreements)), [f"direction {n}" for n in range(len(agreements))])
    axes.set_ylim(len(agreements) - 0.5, -0.5)
    axes.set_xlim(min([-0.45, *(v - 0.05 for v, _ in found)]), 1.12)
    axes.set(xlabel=f"Definition 2 (orange: mean, {mean:.3f})")
    return figure


def draw_search(
    nominal: Sequence[Point], matched: Sequence[Point], target: float
) -> "matplotlib.figure.Figure":
    """Draw metasmoothness against validation loss, at equal and at re-tuned learning rates."""
    figure, panels = new_figure(6.4, rows=2)
    shown = (
        (nominal, "equal learning rate"),
        (matched, f"rate re-tuned for a validation loss of {target:.3g}"),
    )
    numbers = {
        name: i + 1
        for i, name in enumerate(dict.fromkeys(p.name for points, _ in shown for p in points))
    }
    for axes, (points, title) in zip(panels, shown, strict=True):
        axes.set_title(title, loc="left", fontsize=10)
        _draw_routines(axes, points, numbers)
    from matplotlib.lines import Line2D

    names = [
        textwrap.fill(f"{number}  {name}", 46, subsequent_indent="    ")
        for name, number in numbers.items()
    ]
    marks = [
        Line2D([], [], color=ORANGE, marker="D", linestyle="", label="Pareto set"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="other routines"),
        *(Line2D([], [], linestyle="", label=name) for name in names),
    ]
    figure.legend(
        handles=marks,
        loc="outside lower left",
        ncols=1 if is_narrow() else 2,
        frameon=False,
        fontsize=SMALL,
    )
    return figure


def _draw_routines(
    axes: "matplotlib.axes.Axes", points: Sequence[Point], numbers: Mapping[str, int]
) -> None:
    """Draw routines by loss and metasmoothness, each with its number in the legend."""
    named = NULLS[:2]
    for null, _ in named:
        axes.axhline(null, color=GREY, linestyle="--", linewidth=1, zorder=0)
    beside = axes.secondary_yaxis("right")  # a mark may lie anywhere within
    beside.set_yticks([null for null, _ in named], [label for _, label in named])
    beside.tick_params(length=0, labelsize=SMALL, labelcolor=GREY)
    beside.spines["right"].set_visible(False)
    for point in points:
        axes.plot(
            point.loss,
            point.score,
            "D" if point.pareto else "o",
            color=ORANGE if point.pareto else BLUE,
            markersize=7 if point.pareto else 5,
        )
    for (loss, score), names in _together(points).items():
        axes.annotate(
            ", ".join(str(numbers[name]) for name in names),
            (loss, score),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=SMALL,
        )
    axes.set_ylim(-0.45, 1.08)
    axes.margins(x=0.08)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set(xlabel="validation loss (nats)", ylabel="metasmoothness")


def _together(points: Sequence[Point]) -> dict[tuple[float, float], list[str]]:
    """Return the names of points by the first point of those that share a place for their names."""
    reach = max((point.loss for point in points), default=0.0) - min(
        (point.loss for point in points), default=0.0
    )
    found: dict[tuple[float, float], list[str]] = {}
    for point in points:
        near = (
            place
            for place in found
            if abs(place[0] - point.loss) <= 0.05 * reach and abs(place[1] - point.score) < 0.15
        )
        found.setdefault(next(near, (point.loss, point.score)), []).append(point.name)
    return found
