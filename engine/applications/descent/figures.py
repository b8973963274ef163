"""Figures of a finished run, drawn as PNG images.

Matplotlib is imported when something is drawn: it takes a second, and most runs of ``mgd`` draw
nothing. Its object interface is used, not pyplot, which keeps every figure in a global list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.applications.descent.charts import draw_chart
from engine.applications.descent.record import RunRecord
from engine.metaparameters.by_name import kind_of
from engine.reports.canvas import BLUE, GREEN, GREY, ORANGE, new_figure, png, scale, whole_numbers

if TYPE_CHECKING:
    import matplotlib.figure

SPLITS = {"objective": (BLUE, "o"), "validation": (ORANGE, "s"), "test": (GREEN, "^")}


@dataclass(frozen=True)
class Curves:
    """Arrays that figures show and the record does not hold.

    Attributes:
        initial_value: z_0, as the update moves it; see the kind of metaparameter.
        value: z at the chosen iterate, shaped like ``initial_value``.
        corrupted: Which training candidates have a wrong label, shape (examples,).
        losses_before: Batch loss of each training step at z_0.
        losses_after: The same at the chosen iterate.
        adjoint_norms: Norm of lambda_t by t, in the first outer step.
        layers: Names of the parameter tensors.
        layer_norms: Norm of each one's part of lambda_t by t, in the first outer step.
        share_norms: Norm of step t's share of the metagradient by t, there too.
    """

    initial_value: Tensor
    value: Tensor
    corrupted: Tensor
    losses_before: Sequence[float]
    losses_after: Sequence[float]
    adjoint_norms: dict[int, float]
    layers: Sequence[str] = ()
    layer_norms: dict[int, list[float]] = field(default_factory=dict)
    share_norms: dict[int, float] = field(default_factory=dict)


def figures(record: RunRecord, curves: Curves) -> dict[str, bytes]:
    """Draw a run as PNG images: ``losses``, ``metaparameters`` and ``training``."""
    drawn = {
        "losses": _draw_losses(record),
        "metaparameters": _draw_metaparameters(record, curves),
        "training": _draw_training(record, curves),
    }
    return {name: png(figure) for name, figure in drawn.items()}


def _draw_losses(record: RunRecord) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.4)
    steps = [iterate.outer_step for iterate in record.iterates]
    everything = []
    for split, (colour, marker) in SPLITS.items():
        losses = [iterate.scores[split]["loss"] for iterate in record.iterates]
        everything += losses
        axes.plot(steps, losses, color=colour, marker=marker, markersize=5, label=split)
    axes.axvline(record.chosen, color=GREY, linestyle="--", linewidth=1, label="chosen", zorder=0)
    scale(axes, everything)
    whole_numbers(axes)
    axes.set(xlabel="outer step", ylabel="mean loss (nats)")
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.02))
    return figure


def _draw_metaparameters(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    recipe = record.recipe
    kind = kind_of(recipe.metaparameters.name)
    chart = kind.chart(recipe, curves.initial_value, curves.value)
    return draw_chart(chart, _series(record), curves.corrupted)


def _draw_training(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    figure, (above, below) = new_figure(4.8, rows=2)
    below.sharex(above)
    everything = []
    for (label, colour), losses in zip(
        _series(record), (curves.losses_before, curves.losses_after), strict=False
    ):
        smooth = _running_mean(losses)
        everything += smooth
        if len(smooth) < len(losses):
            above.plot(losses, color=colour, linewidth=0.7, alpha=0.35)
        start = (len(losses) - len(smooth)) // 2
        above.plot(range(start, start + len(smooth)), smooth, color=colour, label=label)
    scale(above, everything)
    above.set(ylabel="training loss (nats)")
    above.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))

    norms = {step: norm for step, norm in sorted(curves.adjoint_norms.items()) if norm > 0}
    if norms:
        marker = "o" if len(norms) == 1 else ""
        below.plot(list(norms), list(norms.values()), color="black", marker=marker)
        scale(below, list(norms.values()), log=True)
    below.set_xlim(0, record.recipe.training.num_steps)
    below.set(xlabel="training step", ylabel="adjoint norm (nats)")
    whole_numbers(below)
    return figure


def _series(record: RunRecord) -> list[tuple[str, str]]:
    """Name and colour the set-ups to compare: two, or one if the first was kept."""
    if record.chosen:
        return [("initial set-up", GREY), (f"chosen (outer step {record.chosen})", BLUE)]
    return [("initial set-up, which was kept", BLUE)]


def _running_mean(losses: Sequence[float]) -> list[float]:
    """Average over neighbours, a fortieth of the run; a run of few steps stays as it is."""
    width = max(len(losses) // 40, 1)
    sums = torch.tensor([0.0, *losses], dtype=torch.float64).cumsum(0)
    return ((sums[width:] - sums[:-width]) / width).tolist()
