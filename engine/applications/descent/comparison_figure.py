"""Figure of a run beside what it is compared with."""

from typing import TYPE_CHECKING

from engine.applications.descent.record import RunRecord
from engine.reports.canvas import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


def draw_comparison(record: RunRecord) -> "matplotlib.figure.Figure | None":
    """Draw the test loss of every set-up; None where there is nothing to compare with."""
    rows = record.set_ups()
    if len(rows) < 3:
        return None
    figure, (axes,) = new_figure(1.0 + 0.32 * len(rows))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    colours = {"initial": GREY, "descent": BLUE, "baseline": ORANGE}
    losses = [row.scores["test"]["loss"] for row in rows]
    bars = axes.barh(range(len(rows)), losses, 0.65, color=[colours[row.role] for row in rows])
    axes.bar_label(bars, labels=[f"{loss:.3g}" for loss in losses], padding=3)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="mean test loss (nats)")
    return figure
