"""Section of a reverse sweep: where the adjoint is large, and which steps matter."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.applications.descent.material import Material
from engine.applications.descent.record import RunRecord
from engine.preflight.growth import GROWTH_LIMIT, WINDOW
from engine.reports.canvas import BLUE, new_figure, png
from engine.reports.sections import Figure, Section

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_NAMES = 24
"""Parameter tensors whose names stand beside their rows; more would overlap."""


def section(run: Material) -> Section:
    """Return what the first reverse sweep found."""
    curves, num_steps = run.curves, run.record.recipe.training.num_steps
    figure = Figure(
        png(draw_sweep(curves.layers, curves.layer_norms, curves.share_norms, num_steps)),
        f"Adjoint of {len(curves.layers)} parameter tensors by training step, and share of the "
        "metagradient by step",
        "Above: size of the adjoint by parameter tensor and step, as the first reverse sweep found "
        "it. A row that is much brighter than the others is where training is sensitive. Below: "
        f"how much of the metagradient each step contributes.{growth(run.record)}",
    )
    return Section("Reverse sweep", figures=[figure])


def growth(record: RunRecord) -> str:
    """Say how fast the adjoint grew backwards; empty if that was not measured."""
    if not record.growth:
        return ""
    return (
        f" Backwards the adjoint grew {max(record.growth):.2f}-fold per step at most, over any "
        f"{WINDOW} steps of any outer step; from {GROWTH_LIMIT:g} on training counts as chaotic."
    )


def draw_sweep(
    layers: Sequence[str],
    layer_norms: Mapping[int, Sequence[float]],
    share_norms: Mapping[int, float],
    num_steps: int,
) -> "matplotlib.figure.Figure":
    """Draw the adjoint by parameter tensor and step, above the metagradient's share by step.

    Args:
        layers: Names of the parameter tensors.
        layer_norms: Norm of each one's adjoint, by step.
        share_norms: Norm of the step's share of the metagradient, by step.
        num_steps: T.
    """
    shown = min(len(layers), MOST_NAMES)
    figure, (above, below) = new_figure(2.6 + 0.3 * shown, rows=2)
    below.sharex(above)
    if layer_norms:
        _draw_layers(figure, above, layers, layer_norms)
    else:
        above.set_visible(False)
    total = sum(share_norms.values())
    shares = {step: norm / total for step, norm in sorted(share_norms.items())} if total else {}
    below.bar(list(shares), list(shares.values()), width=1.0, align="edge", color=BLUE)
    # Steps before the first one that reads z are not reversed, and would only be blank.
    below.set_xlim(min(shares, default=0), num_steps)
    below.set(xlabel="training step", ylabel="share of the metagradient")
    below.set_ylim(bottom=0)
    return figure


def _draw_layers(
    figure: "matplotlib.figure.Figure",
    axes: "matplotlib.axes.Axes",
    layers: Sequence[str],
    norms: Mapping[int, Sequence[float]],
) -> None:
    steps = sorted(norms)
    rows = [
        [math.log10(norms[step][row]) if norms[step][row] > 0 else math.nan for step in steps]
        for row in range(len(layers))
    ]
    edges = [*steps, steps[-1] + 1]
    image = axes.pcolormesh(
        edges, range(len(layers) + 1), rows, cmap="viridis", shading="flat", rasterized=True
    )
    axes.grid(visible=False)
    axes.invert_yaxis()
    if len(layers) <= MOST_NAMES:
        axes.set_yticks([row + 0.5 for row in range(len(layers))], list(layers), fontsize=8)
    else:
        axes.set(ylabel=f"{len(layers)} parameter tensors, in order")
    figure.colorbar(image, ax=axes, label="log10 of adjoint norm", pad=0.01)
