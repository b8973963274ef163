"""Section of the metaparameters: what the descent moved, in the form that each kind has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.applications.descent.figures.damage import draw_grid
from engine.applications.descent.material import Curves, Material, as_picture, set_ups
from engine.applications.descent.record import RunRecord
from engine.metaparameters.learning_rate import LearningRatePoints
from engine.metaparameters.scalars import Scalars
from engine.recipes.metaparameters import MetaparameterName
from engine.reports.canvas import BLUE, ORANGE, WIDTH, new_figure, png, scale, whole_numbers
from engine.reports.sections import Figure, Section
from engine.reports.units import write_percent

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def section(run: Material) -> Section:
    """Return z at the chosen iterate."""
    record = run.record
    kept = record.recipe.metaparameters.kept
    start = "every one is 1" if kept == 1 else f"a random {write_percent(kept)} are 1, the others 0"
    shown = KINDS[record.recipe.metaparameters.name]
    if record.damage is not None and run.changed is not None:
        drawn = draw_grid(record.damage, run.curves, list(run.changed))
    else:
        drawn = shown.draw(record, run.curves)
    figure = Figure(
        png(drawn), f"{shown.title} at the chosen iterate", shown.caption.replace("START", start)
    )
    return Section(shown.title, figures=[figure])


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
    whole_numbers(axes)


def _draw_rates(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    num_steps = record.recipe.training.num_steps
    everything = []
    for (label, colour), points in zip(
        set_ups(record), (curves.initial_value, curves.value), strict=False
    ):
        z = points.to(torch.float64)
        kind = LearningRatePoints(z, num_steps=num_steps)
        rates = [float(kind.hyperparameters(z, t)["learning_rate"]) for t in range(num_steps)]
        everything += rates
        axes.plot(range(num_steps), rates, color=colour, label=label)
        keys = torch.linspace(0, num_steps - 1, len(z), dtype=torch.float64)
        axes.plot(keys.numpy(), z.exp().numpy(), "o", color=colour, markersize=4)
        everything += z.exp().tolist()
    scale(axes, everything)
    whole_numbers(axes)
    axes.set(xlabel="training step", ylabel="learning rate (per step)")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))
    return figure


def _draw_shares(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    """Draw the share of each group in the mixture, before and after."""
    figure, (axes,) = new_figure(3.2)
    series = list(zip(set_ups(record), (curves.initial_value, curves.value), strict=False))
    width = 0.8 / len(series)
    for position, ((label, colour), logits) in enumerate(series):
        places = torch.arange(len(logits)) + (position - (len(series) - 1) / 2) * width
        shares = torch.softmax(logits.to(torch.float64), 0)
        axes.bar(places.tolist(), shares.tolist(), width, color=colour, label=label)
    whole_numbers(axes)
    axes.set(xlabel="group", ylabel="share of the training loss")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.02))
    return figure


def _draw_scalars(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    """Draw each number before and after, in a panel of its own: their units differ."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    names = tuple(name.value for name in record.recipe.metaparameters.scalars)
    points = (curves.initial_value, curves.value)
    series = list(zip(set_ups(record), points, strict=False))
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


@dataclass(frozen=True)
class Shown:
    """How a kind of metaparameter is shown.

    Attributes:
        title: Heading.
        draw: Draws it.
        caption: How to read it; START stands for how it was at the start.
    """

    title: str
    draw: "Callable[[RunRecord, Curves], matplotlib.figure.Figure]"
    caption: str


_EXAMPLES = "Examples by their {} at the chosen iterate; at the start START."

KINDS = {
    MetaparameterName.COUNTS: Shown(
        "Example counts", _draw_values, _EXAMPLES.format("count in an epoch")
    ),
    MetaparameterName.WEIGHTS: Shown(
        "Example weights", _draw_values, _EXAMPLES.format("weight in the training loss")
    ),
    MetaparameterName.LEARNING_RATE: Shown(
        "Learning rate", _draw_rates, "Learning rate of each step; the dots are the key points."
    ),
    MetaparameterName.SCALARS: Shown(
        "Hyperparameters", _draw_scalars, "Numbers that hold for the whole run."
    ),
    MetaparameterName.GROUP_WEIGHTS: Shown(
        "Mixture", _draw_shares, "Share of each group in the training loss."
    ),
    MetaparameterName.INPUTS: Shown(
        "Changed inputs",
        _draw_inputs,
        "The changed images that carry most of the damage, with their label and their part of the "
        "rise of the objective.",
    ),
    MetaparameterName.INITIAL_PARAMETERS: Shown(
        "Initial parameters",
        _draw_parameters,
        "How far the descent moved the initial parameters.",
    ),
}
"""Kind to how it is shown; a test holds that every kind is here."""
