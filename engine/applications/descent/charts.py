"""Charts of metaparameters: each form of ``engine.metaparameters.charts`` but pictures.

Matplotlib is imported when something is drawn, as for all figures.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.metaparameters.charts import (
    Bars,
    Chart,
    Histogram,
    Lines,
    OfExamples,
    Panels,
)
from engine.reports.canvas import BLUE, ORANGE, is_narrow, legend, new_figure, scale, whole_numbers

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

SetUps = Sequence[tuple[str, str]]
"""Name and colour of the set-ups that are compared: two, or one if the first was kept."""


def draw_chart(chart: Chart, set_ups: SetUps, corrupted: Tensor) -> "matplotlib.figure.Figure":
    """Draw what a kind of metaparameter shows.

    Args:
        chart: What it shows.
        set_ups: Before and after, or one of them for both.
        corrupted: Which candidates have a wrong label, shape (examples,).
    """
    return _FORMS[type(chart)](chart, set_ups, corrupted)


def _of_examples(
    chart: OfExamples, _set_ups: SetUps, corrupted: Tensor
) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    value = chart.values.to(torch.float64)
    groups = {"examples": (value, BLUE)}
    if corrupted.any():
        groups = {
            "right label": (value[~corrupted], BLUE),
            "wrong label": (value[corrupted], ORANGE),
        }
    if chart.whole:
        _counted(axes, groups)
    else:
        axes.hist(
            [values.numpy() for values, _ in groups.values()],
            bins=20,
            range=_range(value),
            color=[colour for _, colour in groups.values()],
            label=list(groups),
        )
    axes.set(xlabel=chart.label, ylabel="number of examples")
    if len(groups) > 1:
        legend(axes)
    return figure


def _counted(axes: "matplotlib.axes.Axes", groups: dict[str, tuple[Tensor, str]]) -> None:
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


def _lines(chart: Lines, set_ups: SetUps, _corrupted: Tensor) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    everything: list[float] = []
    for (label, colour), line in zip(set_ups, (chart.before, chart.after), strict=False):
        axes.plot(range(len(line.heights)), list(line.heights), color=colour, label=label)
        axes.plot(*zip(*line.dots, strict=True), "o", color=colour, markersize=4)
        everything += [*line.heights, *(height for _, height in line.dots)]
    scale(axes, everything)
    whole_numbers(axes)
    axes.set(xlabel="training step", ylabel=chart.label)
    legend(axes)
    return figure


def _bars(chart: Bars, set_ups: SetUps, _corrupted: Tensor) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    series = list(zip(set_ups, (chart.before, chart.after), strict=False))
    width = 0.8 / len(series)
    for position, ((label, colour), heights) in enumerate(series):
        places = torch.arange(len(heights)) + (position - (len(series) - 1) / 2) * width
        axes.bar(places.tolist(), heights.tolist(), width, color=colour, label=label)
    whole_numbers(axes)
    axes.set(xlabel=chart.things, ylabel=chart.label)
    legend(axes)
    return figure


def _panels(chart: Panels, set_ups: SetUps, _corrupted: Tensor) -> "matplotlib.figure.Figure":
    figure, panels = new_figure(2.6, columns=len(chart.before))
    series = list(zip(set_ups, (chart.before, chart.after), strict=False))
    for axes, name in zip(panels, chart.before, strict=True):
        for position, ((label, colour), numbers) in enumerate(series):
            bar = axes.bar([position], [numbers[name]], 0.6, color=colour, label=label)
            axes.bar_label(bar, fmt="%.4g", padding=1)
        axes.set(xticks=[], title=name, xlim=(-0.8, 1.8))
        axes.margins(y=0.15)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        frameon=False,
        ncols=1 if is_narrow() else 2,
        loc="outside upper left",
    )
    return figure


def _histogram(
    chart: Histogram, _set_ups: SetUps, _corrupted: Tensor
) -> "matplotlib.figure.Figure":
    figure, (axes,) = new_figure(3.2)
    values = chart.values.to(torch.float64).flatten()
    axes.hist(values.numpy(), bins=40, range=_range(values), color=BLUE)
    axes.set_yscale("log")
    axes.set(xlabel=chart.label, ylabel=f"number of {chart.counted}")
    return figure


def _range(values: Tensor) -> tuple[float, float]:
    """Return where a histogram begins and ends; values that differ by rounding are one."""
    low, high = float(values.min()), float(values.max())
    room = 0.0 if high - low > 1e-9 * max(-low, high) else max(-low, high, 1.0) / 2
    return low - room, high + room


_FORMS: dict[type[Any], Callable[[Any, SetUps, Tensor], "matplotlib.figure.Figure"]] = {
    OfExamples: _of_examples,
    Histogram: _histogram,
    Lines: _lines,
    Bars: _bars,
    Panels: _panels,
}
