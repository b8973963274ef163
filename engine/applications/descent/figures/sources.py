"""Section of the sources' shares in training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.applications.descent.material import Material
from engine.applications.descent.source_shares import SourceShare
from engine.reports.canvas import BLUE, GREY, cut_name, legend, lying, new_figure
from engine.reports.sections import Figure, Section
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.figure


def section(run: Material) -> Section | None:
    """Return the share of each source; none for data without sources."""
    if not run.record.sources:
        return None
    figure = Figure(
        vector(lambda: draw_sources(run.record.sources)),
        "Share of each source in the training, at the start and at the chosen iterate",
        "Share of each source in the training: of all counts or weights together.",
    )
    return Section("Sources", figures=[figure])


def draw_sources(shares: Sequence[SourceShare]) -> "matplotlib.figure.Figure":
    """Draw the share of each source at the start and at the chosen iterate."""
    figure, (axes,) = new_figure(1.2 + 0.5 * len(shares))
    lying(axes)
    places = range(len(shares))
    pairs = {
        "at the start": ([100 * each.before for each in shares], GREY, -0.2),
        "at the chosen iterate": ([100 * each.after for each in shares], BLUE, 0.2),
    }
    for label, (values, colour, offset) in pairs.items():
        bars = axes.barh(
            [place + offset for place in places], values, 0.38, color=colour, label=label
        )
        axes.bar_label(bars, labels=[f"{value:.0f} %" for value in values], padding=3)
    axes.set_yticks(list(places), [cut_name(each.name) for each in shares])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="share of the training (%)")
    legend(axes)
    return figure
