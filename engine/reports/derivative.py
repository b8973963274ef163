"""The figure of one metagradient: its entries, and what its two sweeps recorded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.reports.canvas import BLUE, GREY, new_figure, scale
from engine.reports.shown_figures import ShownFigure
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_MOST = 4000
"""Entries that are drawn one by one; of more, as many quantiles."""


def derivative_figure(
    entries: Mapping[str, Sequence[float]], losses: Sequence[float], norms: Mapping[int, float]
) -> ShownFigure:
    """Return the figure of a metagradient, for a notebook.

    Args:
        entries: Name of a metaparameter to its derivatives, in its own order.
        losses: Batch loss of each step.
        norms: Norm of the adjoint, by step.

    Raises:
        ConfigurationError: If matplotlib is not installed.
    """
    names = ", ".join(entries)
    return ShownFigure(
        "Metagradient",
        vector(lambda: draw_derivative(entries, losses, norms)).wide.encode(),
        "image/svg+xml",
        f"Entries of the metagradient of {names}, in their order and sorted; batch loss and norm "
        "of the adjoint by step",
        "A negative entry says that more of it lowers the output. The adjoint is the derivative of "
        "the output with respect to the state after a step; where it grows backwards without end, "
        "training is chaotic.",
    )


def draw_derivative(
    entries: Mapping[str, Sequence[float]], losses: Sequence[float], norms: Mapping[int, float]
) -> "matplotlib.figure.Figure":
    """Draw a row for each metaparameter, and one for the sweeps; see ``derivative_figure``."""
    rows = len(entries) + 1
    figure, panels = new_figure(2.3 * rows, rows=rows, columns=2)
    for place, (name, values) in enumerate(entries.items()):
        _entries(panels[2 * place], panels[2 * place + 1], name, values)
    loss, norm = panels[-2:]
    loss.plot(range(len(losses)), losses, color=BLUE, linewidth=1.2)
    loss.set(xlabel="training step", ylabel="batch loss")
    scale(loss, losses)
    steps = sorted(norms)
    heights = [norms[step] for step in steps]
    norm.plot(steps, heights, color=BLUE, linewidth=1.2, marker="" if len(steps) > 1 else "o")
    norm.set(xlabel="training step", ylabel="norm of the adjoint")
    if heights:
        scale(norm, heights)
    return figure


def _entries(
    left: "matplotlib.axes.Axes", right: "matplotlib.axes.Axes", name: str, values: Sequence[float]
) -> None:
    """Draw entries in their order, or how often they are if there are many; and sorted."""
    ordered = sorted(values)
    if len(values) > _MOST:
        left.hist(ordered, bins=60, color=BLUE)
        left.set(xlabel=f"derivative by {name}", ylabel="entries")
        last = len(ordered) - 1
        places = [round(each * last / (_MOST - 1)) for each in range(_MOST)]
    else:
        left.vlines(range(len(values)), 0, values, color=BLUE, linewidth=0.8)
        left.set(xlabel="place among the entries", ylabel=f"derivative by {name}")
        places = list(range(len(ordered)))
    right.plot(places, [ordered[each] for each in places], color=BLUE, linewidth=1.2)
    right.set(xlabel="rank, the lowest first", ylabel=f"derivative by {name}")
    for axes in (left, right) if len(values) <= _MOST else (right,):
        axes.axhline(0, color=GREY, linewidth=0.8)
