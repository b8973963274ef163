"""Figures of a finished run, drawn as PNG images.

Matplotlib is imported when something is drawn: it takes a second, and most runs of ``mgd`` draw
nothing. Its object interface is used, not pyplot, which keeps every figure in a global list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.applications.descent.record import RunRecord
from engine.metaparameters.learning_rate import LearningRatePoints
from engine.metaparameters.scalars import Scalars
from engine.recipes.metaparameters import MetaparameterName
from engine.reports.canvas import BLUE, GREEN, GREY, ORANGE, WIDTH, new_figure, png

if TYPE_CHECKING:
    import matplotlib.axes
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
        "metaparameters": _DRAWINGS[record.recipe.metaparameters.name](record, curves),
        "training": _draw_training(record, curves),
    }
    return {name: png(figure) for name, figure in drawn.items()}


def _whole_numbers(axes: "matplotlib.axes.Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _scale(axes: "matplotlib.axes.Axes", values: list[float], *, log: bool = False) -> None:
    """Start the y axis at 0, or make it logarithmic: if asked for, or over two powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values), max(values)
    if low <= 0 or not (log or high > 100 * low):
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high < 20 * low:  # powers of ten alone would leave one tick or none
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_losses(record: RunRecord) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.4)
    steps = [iterate.outer_step for iterate in record.iterates]
    everything = []
    for split, (colour, marker) in SPLITS.items():
        losses = [iterate.scores[split]["loss"] for iterate in record.iterates]
        everything += losses
        axes.plot(steps, losses, color=colour, marker=marker, markersize=5, label=split)
    axes.axvline(record.chosen, color=GREY, linestyle="--", linewidth=1, label="chosen", zorder=0)
    _scale(axes, everything)
    _whole_numbers(axes)
    axes.set(xlabel="outer step", ylabel="mean loss (nats)")
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.02))
    return figure


def _draw_values(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    value = curves.value.to(torch.float64)
    groups = {"examples": (value, BLUE)}
    if curves.corrupted.any():
        groups = {
            "right label": (value[~curves.corrupted], BLUE),
            "wrong label": (value[curves.corrupted], ORANGE),
        }
    if record.recipe.metaparameters.name is MetaparameterName.COUNTS:
        _draw_counts(axes, groups)
        axes.set(xlabel="count (uses in an epoch)", ylabel="number of examples")
    else:
        axes.hist(
            [values.numpy() for values, _ in groups.values()],
            bins=20,
            color=[colour for _, colour in groups.values()],
            label=list(groups),
        )
        axes.set(xlabel="weight (factor on the loss)", ylabel="number of examples")
    if len(groups) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))
    return figure


def _draw_counts(axes: "matplotlib.axes.Axes", groups: dict[str, tuple[Tensor, str]]) -> None:
    most = max(int(values.max()) for values, _ in groups.values() if len(values))
    width = 0.8 / len(groups)
    for position, (label, (values, colour)) in enumerate(groups.items()):
        heights = torch.bincount(values.long(), minlength=most + 1).tolist()
        offset = (position - (len(groups) - 1) / 2) * width
        bars = axes.bar(
            [count + offset for count in range(most + 1)], heights, width, color=colour, label=label
        )
        if most < 8:  # more bars leave no room for numbers
            axes.bar_label(bars, labels=[str(h) if h else "" for h in heights], padding=1)
    axes.set_xlim(-0.6, max(most, 2) + 0.6)
    axes.margins(y=0.1)
    _whole_numbers(axes)


def _draw_rates(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    num_steps = record.recipe.training.num_steps
    everything = []
    for (label, colour), points in zip(
        _series(record), (curves.initial_value, curves.value), strict=False
    ):
        z = points.to(torch.float64)
        kind = LearningRatePoints(z, num_steps=num_steps)
        rates = [float(kind.hyperparameters(z, t)["learning_rate"]) for t in range(num_steps)]
        everything += rates
        axes.plot(range(num_steps), rates, color=colour, label=label)
        keys = torch.linspace(0, num_steps - 1, len(z), dtype=torch.float64)
        axes.plot(keys.numpy(), z.exp().numpy(), "o", color=colour, markersize=4)
        everything += z.exp().tolist()
    _scale(axes, everything)
    _whole_numbers(axes)
    axes.set(xlabel="training step", ylabel="learning rate (per step)")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))
    return figure


def _draw_shares(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    """Draw the share of each group in the mixture, before and after."""
    figure, (axes,) = new_figure(3.2)
    series = list(zip(_series(record), (curves.initial_value, curves.value), strict=False))
    width = 0.8 / len(series)
    for position, ((label, colour), logits) in enumerate(series):
        places = torch.arange(len(logits)) + (position - (len(series) - 1) / 2) * width
        shares = torch.softmax(logits.to(torch.float64), 0)
        axes.bar(places.tolist(), shares.tolist(), width, color=colour, label=label)
    _whole_numbers(axes)
    axes.set(xlabel="group", ylabel="share of the training loss")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))
    return figure


def _draw_scalars(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    """Draw each number before and after, in a panel of its own: their units differ."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    names = tuple(name.value for name in record.recipe.metaparameters.scalars)
    points = (curves.initial_value, curves.value)
    series = list(zip(_series(record), points, strict=False))
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        axes.spines[["top", "right"]].set_visible(False)
        for position, ((label, colour), z) in enumerate(series):
            kind = Scalars(z.to(torch.float64), names)
            height = float(kind.numbers(kind.value)[name])
            bar = axes.bar([position], [height], 0.6, color=colour, label=label)
            axes.bar_label(bar, fmt="%.4g", padding=1)
        axes.set(xticks=[], title=name, xlim=(-0.8, 1.8))
        axes.margins(y=0.15)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        frameon=False,
        ncols=2,
        loc="outside upper left",
    )
    return figure


def as_picture(values: Tensor) -> Tensor:
    """Return an input as a picture: channels are averaged, and a row of a table is one line."""
    if values.ndim < 2:
        return values.reshape(1, -1)
    return values.reshape(-1, *values.shape[-2:]).mean(dim=0)


def _draw_inputs(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    """Draw the images that changed most: before, after and the change."""
    from matplotlib.figure import Figure

    del record
    before, after = (z.to(torch.float64) for z in (curves.initial_value, curves.value))
    change = after - before
    shown = change.flatten(1).norm(dim=1).argsort(descending=True)[:8]
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    rows = {"before": (before, "gray"), "after": (after, "gray"), "change": (change, "RdBu_r")}
    for row, (label, (values, colours)) in enumerate(rows.items()):
        low, high = float(values[shown].min()), float(values[shown].max())
        if label == "change":
            high = max(high, -low, 1e-12)
            low = -high
        for column, index in enumerate(shown.tolist()):
            axes = figure.add_subplot(3, len(shown), row * len(shown) + column + 1)
            axes.imshow(
                as_picture(values[index]).numpy(),
                cmap=colours,
                vmin=low,
                vmax=high,
                interpolation="nearest",
            )
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(label)
    return figure


def _draw_parameters(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    change = (curves.value - curves.initial_value).to(torch.float64)
    axes.hist(change.numpy(), bins=40, color=BLUE)
    axes.set_yscale("log")
    axes.set(xlabel="change of an initial parameter", ylabel="number of parameters")
    return figure


_DRAWINGS: dict[MetaparameterName, Callable[[RunRecord, Curves], "matplotlib.figure.Figure"]] = {
    MetaparameterName.COUNTS: _draw_values,
    MetaparameterName.WEIGHTS: _draw_values,
    MetaparameterName.LEARNING_RATE: _draw_rates,
    MetaparameterName.SCALARS: _draw_scalars,
    MetaparameterName.GROUP_WEIGHTS: _draw_shares,
    MetaparameterName.INPUTS: _draw_inputs,
    MetaparameterName.INITIAL_PARAMETERS: _draw_parameters,
}


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
    _scale(above, everything)
    above.set(ylabel="training loss (nats)")
    above.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))

    norms = {step: norm for step, norm in sorted(curves.adjoint_norms.items()) if norm > 0}
    if norms:
        marker = "o" if len(norms) == 1 else ""
        below.plot(list(norms), list(norms.values()), color="black", marker=marker)
        _scale(below, list(norms.values()), log=True)
    below.set_xlim(0, record.recipe.training.num_steps)
    below.set(xlabel="training step", ylabel="adjoint norm (nats)")
    _whole_numbers(below)
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
