"""Section of the metaparameters: a chart of z before and after, in the form of its kind."""

from collections.abc import Sequence

from engine.applications.descent.charts import draw_chart
from engine.applications.descent.figures.damage import SIDE_BY_SIDE, changed_examples, looks_as
from engine.applications.descent.material import Material, set_ups
from engine.metaparameters.charts import Chart, Pictures
from engine.reports.pictures import changes
from engine.reports.sections import Card, Figure, Section, Table
from engine.reports.units import write_percent
from engine.reports.vector import vector

SHOWN = 8
"""Pictures that changed most; the eye finds no more in many."""


def section(run: Material) -> Section | None:
    """Return z at the chosen iterate; none for images whose damage is shown by itself."""
    record, curves = run.record, run.curves
    settings = record.recipe.metaparameters
    if record.damage is not None:
        return None
    whole = settings.kept == 1
    start = (
        "every one is 1"
        if whole
        else f"a random {write_percent(settings.kept)} are 1, the others 0"
    )
    about = settings.about
    caption = about.caption.format(start=start)
    chart = run.chart
    if run.changed is not None:
        return Section(about.title, examples={_KEPT: _unmoved(run, chart)})
    if isinstance(chart, Pictures):
        return Section(about.title, examples={caption: _cards(chart)})
    figure = Figure(
        vector(lambda: draw_chart(chart, set_ups(record), curves.corrupted)),
        f"{about.title} at the chosen iterate",
        caption,
    )
    return Section(about.title, figures=[figure])


_KEPT = (
    "Inputs that might be changed; the chosen set-up is the first one, which has them as they are"
)


def _unmoved(run: Material, chart: Chart) -> Sequence[Card] | Table:
    """Return examples whose inputs a descent was to change, where the first set-up was kept."""
    assert isinstance(chart, Pictures)  # of changed inputs
    most = SIDE_BY_SIDE if looks_as(run) == "row" else SHOWN
    rows = list(range(min(most, len(chart.after))))
    return changed_examples(run, rows, ["as it was"] * len(rows), "change")


def _cards(chart: Pictures) -> list[Card]:
    """Return the pictures that changed most, by their numbers."""
    moved = (chart.after - chart.before).flatten(1).norm(dim=1)
    shown = moved.argsort(descending=True, stable=True)[:SHOWN]
    pictures = changes(chart.before[shown], chart.after[shown])
    return [
        Card(each, f"input {place}", note=f"changed by {float(moved[place]):.3g}")
        for place, each in zip(shown.tolist(), pictures, strict=True)
    ]
