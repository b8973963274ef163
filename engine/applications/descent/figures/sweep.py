"""Section of a reverse sweep: where the adjoint is large, and which steps matter."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.applications.descent.material import Material
from engine.applications.descent.record import RunRecord
from engine.preflight.growth import GROWTH_LIMIT, WINDOW
from engine.reports.canvas import BLUE, SMALL, name_room, new_figure, short_names, whole_numbers
from engine.reports.sections import Figure, Section
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_NAMES = 24
"""Parameter tensors whose names stand beside their rows; more would overlap."""

WITHOUT_NAMES = 10
"""Rows of whose height the figure is where it has no names: a line of colour needs little."""


def section(run: Material) -> Section | None:
    """Return the section on the first reverse sweep; None if no adjoint went through a step."""
    curves, num_steps = run.curves, run.record.recipe.training.num_steps
    alone = [step for step, norm in curves.share_norms.items() if norm > 0]
    if not (curves.layer_norms or run.record.growth) and len(alone) == 1:
        return None  # counts that enter at the last step
    below = "Below: how much of the metagradient each step contributes."
    if len(alone) == 1:  # as of counts, which enter at one step: no figure is needed to say so
        below = f"All of the metagradient comes from step {alone[0]}."
    caption = (
        "Size of the adjoint by parameter tensor and step, as the first reverse sweep found it. A "
        f"row that is much brighter than the others is where training is sensitive. {below}"
        f"{growth(run.record)}"
    )
    figure = Figure(
        vector(
            lambda: draw_sweep(curves.layers, curves.layer_norms, curves.share_norms, num_steps)
        ),
        f"Adjoint of {len(curves.layers)} parameter tensors by training step"
        f"{'' if len(alone) == 1 else ', and share of the metagradient by step'}",
        caption,
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
    total = math.fsum(share_norms.values())
    shares = {step: norm / total for step, norm in sorted(share_norms.items())} if total else {}
    several = not layer_norms or sum(share > 0 for share in shares.values()) != 1
    names = short_names(layers) if len(layers) <= MOST_NAMES else []
    if any(len(name) > name_room() for name in names):
        names = []  # those that are cut would look alike
    shown = len(names) or WITHOUT_NAMES
    above = 0.24 * shown if layer_norms else 0.0
    figure, panels = new_figure(0.9 + above + 1.5 * several, rows=bool(layer_norms) + several)
    # Steps before the first one that reads z are not reversed, and would only be blank; that one
    # itself has a share, and no adjoint goes on from it.
    first = min(shares if several else layer_norms, default=0)
    if several:
        # One outline: a bar for each of thousands of steps would be thousands of shapes.
        heights = [shares.get(step, 0.0) for step in range(first, num_steps)]
        panels[-1].stairs(heights, range(first, num_steps + 1), fill=True, color=BLUE)
        panels[-1].set(ylabel="share of the\nmetagradient")
        panels[-1].set_ylim(bottom=0)
    if layer_norms:
        _draw_layers(figure, panels[0], names, layer_norms)
    for axes in panels:
        axes.set_xlim(first, num_steps)
        whole_numbers(axes)
    panels[-1].set(xlabel="training step")
    return figure


def _draw_layers(
    figure: "matplotlib.figure.Figure",
    axes: "matplotlib.axes.Axes",
    names: Sequence[str],
    norms: Mapping[int, Sequence[float]],
) -> None:
    steps = sorted(norms)
    number = len(norms[steps[0]])
    rows = [
        [math.log10(norms[step][row]) if norms[step][row] > 0 else math.nan for step in steps]
        for row in range(number)
    ]
    edges = [*steps, steps[-1] + 1]
    image = axes.pcolormesh(
        edges, range(number + 1), rows, cmap="viridis", shading="flat", rasterized=True
    )
    axes.grid(visible=False)
    axes.invert_yaxis()
    if names:
        axes.set_yticks([row + 0.5 for row in range(number)], list(names), fontsize=SMALL)
    else:
        axes.set(ylabel=f"{number} parameter tensors, in order", yticks=[])
    figure.colorbar(image, ax=axes, label="log10 of adjoint norm", pad=0.01)
