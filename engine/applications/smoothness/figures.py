"""Figures of metasmoothness: the landscape along a direction, and routines against each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.preflight.metasmoothness import CHAOS, INDEPENDENT
from engine.recipes.metaparameters import MetaparameterName
from engine.reports.canvas import BLUE, GREY, ORANGE, new_figure, png


@dataclass(frozen=True)
class Point:
    """A routine in the plane of loss and metasmoothness."""

    name: str
    loss: float
    score: float
    pareto: bool


def draw_landscape(
    heights: Sequence[tuple[float, float]], step: float, kind: MetaparameterName
) -> bytes:
    """Draw the output along a direction as a PNG image.

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
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))
    return png(figure)


def draw_search(nominal: Sequence[Point], matched: Sequence[Point], target: float) -> bytes:
    """Draw metasmoothness against validation loss, at equal and at re-tuned learning rates."""
    figure, panels = new_figure(8.4, rows=2)
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
        for null, label in ((INDEPENDENT, "independent increments"), (CHAOS, "chaos")):
            axes.axhline(null, color=GREY, linestyle="--", linewidth=1, zorder=0)
            axes.annotate(
                label,
                (1, null),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=GREY,
                fontsize=8,
            )
        for point in points:
            axes.plot(
                point.loss,
                point.score,
                "D" if point.pareto else "o",
                color=ORANGE if point.pareto else BLUE,
                markersize=7 if point.pareto else 5,
            )
            axes.annotate(
                str(numbers[point.name]),
                (point.loss, point.score),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
            )
        axes.set_ylim(-0.45, 1.08)
        axes.margins(x=0.08)
        axes.set(xlabel="validation loss (nats)", ylabel="metasmoothness (Definition 2)")
    from matplotlib.lines import Line2D

    names = [f"{number}  {name}" for name, number in numbers.items()]
    marks = [
        Line2D([], [], color=ORANGE, marker="D", linestyle="", label="Pareto set"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="other routines"),
        *(Line2D([], [], linestyle="", label=name) for name in names),
    ]
    figure.legend(handles=marks, loc="outside lower left", ncols=2, frameon=False, fontsize=8)
    return png(figure)
