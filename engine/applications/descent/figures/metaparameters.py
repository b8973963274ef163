"""Section of the metaparameters: what the descent moved, in the form that its kind has."""

from engine.applications.descent.charts import draw_chart
from engine.applications.descent.figures.damage import draw_grid
from engine.applications.descent.material import Material, set_ups
from engine.metaparameters.by_name import kind_of
from engine.reports.canvas import png
from engine.reports.sections import Figure, Section
from engine.reports.units import write_percent


def section(run: Material) -> Section:
    """Return z at the chosen iterate."""
    record, curves = run.record, run.curves
    config = record.recipe.metaparameters
    whole = config.kept == 1
    start = (
        "every one is 1" if whole else f"a random {write_percent(config.kept)} are 1, the others 0"
    )
    if record.damage is not None and run.changed is not None:
        drawn = draw_grid(record.damage, curves, list(run.changed))
    else:
        kind = kind_of(config.name)
        chart = kind.chart(record.recipe, curves.initial_value, curves.value)
        drawn = draw_chart(chart, set_ups(record), curves.corrupted)
    about = config.about
    figure = Figure(
        png(drawn), f"{about.title} at the chosen iterate", about.caption.format(start=start)
    )
    return Section(about.title, figures=[figure])
