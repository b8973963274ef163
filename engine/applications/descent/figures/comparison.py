"""Sections of what a run is compared with: baselines, and other routines."""

from typing import TYPE_CHECKING, Any

from engine.applications.descent.material import Material
from engine.applications.descent.record import RunRecord, SetUp
from engine.reports.canvas import BLUE, GREY, ORANGE, cut_name, lying, new_figure
from engine.reports.sections import Figure, Section, Table
from engine.reports.units import measures, write_measure, write_number, write_percent
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.figure

FEWEST = 3
"""Set-ups that are worth a figure."""


def section(run: Material) -> Section | None:
    """Return set-ups made without a metagradient; none where there are none."""
    record = run.record
    if not record.baselines:
        return None
    rows = record.set_ups()
    figures = []
    if len(rows) >= FEWEST:
        alt = f"Test loss of {len(rows)} set-ups: {', '.join(row.name for row in rows)}"
        caption = "Test loss of the set-ups that were trained and scored in this run."
        figures = [Figure(vector(lambda: draw_comparison(record)), alt, caption)]
    marked = {place: "chosen" for place, row in enumerate(rows) if row.role == "descent"}
    return Section(
        "Baselines",
        notes=["Set-ups made without a metagradient, trained and scored by the same stages."],
        figures=figures,
        tables=[Table([_row(row, rows[0]) for row in rows], marked=marked)],
    )


def reruns(run: Material) -> Section | None:
    """Return the initial and the chosen set-up by other routines; none where there are none."""
    record = run.record
    if not record.reruns:
        return None
    rows: list[dict[str, Any]] = []
    for each in record.reruns:
        row = {"Changed": each.name}
        for words, loss in zip(("before", "after"), each.training_loss, strict=True):
            row[f"Training loss {words}"] = "diverged" if loss is None else write_number(loss)
        for score in ("loss", *measures(record.iterates[0].scores["test"])):
            for words, scores in (("before", each.before), ("after", each.after)):
                row[f"Test {score} {words}"] = (
                    "" if scores is None else write_measure(score, scores["test"][score])
                )
        rows.append(row)
    note = (
        "The initial and the chosen set-up, trained again with these settings changed. A training "
        "that ends with a high training loss of its own is a failed training, not an effect of the "
        "set-up."
    )
    return Section("Other routines", notes=[note], tables=[Table(rows)])


def _row(row: SetUp, first: SetUp) -> dict[str, Any]:
    """Return a set-up as a row; the first one says which columns there are."""
    shown: dict[str, Any] = {"Set-up": row.name}
    if first.examples is not None:
        shown["Examples"] = row.examples
    if first.corrupted is not None:
        known = row.corrupted is not None and row.examples
        shown["Wrong labels"] = (
            write_percent(row.corrupted / row.examples, 1)
            if known and row.corrupted is not None and row.examples
            else ""
        )
    for split in ("objective", "validation", "test"):
        shown[f"{split.capitalize()} loss"] = write_number(row.scores[split]["loss"])
    for name in measures(first.scores["test"]):
        shown[f"Test {name}"] = write_measure(name, row.scores["test"][name])
    return shown


def draw_comparison(record: RunRecord) -> "matplotlib.figure.Figure":
    """Draw the test loss of every set-up."""
    rows = record.set_ups()
    figure, (axes,) = new_figure(1.0 + 0.32 * len(rows))
    lying(axes)
    colours = {"initial": GREY, "descent": BLUE, "baseline": ORANGE}
    losses = [row.scores["test"]["loss"] for row in rows]
    bars = axes.barh(range(len(rows)), losses, 0.65, color=[colours[row.role] for row in rows])
    axes.bar_label(bars, labels=[f"{loss:#.3g}" for loss in losses], padding=3)
    axes.set_yticks(range(len(rows)), [cut_name(row.name) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="mean test loss (nats)")
    return figure
