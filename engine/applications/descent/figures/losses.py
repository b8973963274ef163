"""Section of the losses: the curves by outer step, and the table of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.applications.descent.iterates import Iterate
from engine.applications.descent.material import Material
from engine.applications.descent.record import RunRecord
from engine.reports.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    legend,
    new_figure,
    scale,
    whole_numbers,
)
from engine.reports.sections import Figure, Section, Table
from engine.reports.units import measures, write_measure, write_number
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.figure

SPLITS = {"objective": (BLUE, "o"), "validation": (ORANGE, "s"), "test": (GREEN, "^")}

ROWS = 14
"""Outer steps in the table; of more, some are shown, and all of them stand in a folded section."""


def section(run: Material) -> Section:
    """Return the losses at each outer step."""
    return of(run.record)


def of(record: RunRecord) -> Section:
    """Return the losses of a record, which may be that of a run that goes on."""
    measured = list(measures(record.iterates[0].scores["test"]))
    shown = _thinned(record)
    notes = []
    if len(shown) < len(record.iterates):
        notes = [
            f"{len(shown)} of {len(record.iterates)} outer steps; all of them are under All outer "
            "steps."
        ]
    outer = record.recipe.outer
    way = "highest" if outer.chooses_highest else "lowest"
    by = "" if outer.choose_by == "loss" else f", the one with the {way} {outer.choose_by}"
    caption = (
        "Mean loss on three held-out splits. The objective is what the metagradient "
        f"{'raises' if record.recipe.outer.maximize else 'lowers'}, validation chooses the "
        f"iterate{by}, and test takes no part."
    )
    first, last = record.losses["test"][0], record.losses["test"][record.chosen]
    alt = (
        f"Objective, validation and test loss at each of {len(record.iterates)} outer steps; the "
        f"test loss goes from {write_number(first)} to {write_number(last)} at the chosen one"
    )
    return Section(
        f"Loss and {measured[0] if len(measured) == 1 else 'metrics'}" if measured else "Loss",
        notes=notes,
        figures=[Figure(vector(lambda: draw(record)), alt, caption)],
        tables=[_table(record, shown)],
    )


def all_steps(run: Material) -> Section | None:
    """Return every row, where the section above has only some."""
    return all_of(run.record)


def all_of(record: RunRecord) -> Section | None:
    """Return every row of a record, which may be that of a run that goes on."""
    if len(record.iterates) <= ROWS:
        return None
    return Section("All outer steps", tables=[_table(record, record.iterates)], folded=True)


def _thinned(record: RunRecord) -> list[Iterate]:
    """Return at most so many iterates, the first, the last and the chosen one among them."""
    number = len(record.iterates)
    if number <= ROWS:
        return record.iterates
    every = {round(place * (number - 1) / (ROWS - 2)) for place in range(ROWS - 1)}
    return [record.iterates[place] for place in sorted(every | {record.chosen})]


def _table(record: RunRecord, iterates: Sequence[Iterate]) -> Table:
    rows: list[dict[str, Any]] = []
    for each in iterates:
        chosen = each.outer_step == record.chosen
        row = {"Outer step": f"{each.outer_step}{' (chosen)' if chosen else ''}"}
        row |= {
            f"{split.capitalize()} loss": write_number(each.scores[split]["loss"])
            for split in SPLITS
        }
        by = record.recipe.outer.choose_by
        if by != "loss":
            row[f"Validation {by}"] = write_measure(by, each.scores["validation"][by])
        row |= {f"Test {n}": write_measure(n, v) for n, v in measures(each.scores["test"]).items()}
        rows.append(row)
    places = [each.outer_step for each in iterates]
    marked = {places.index(record.chosen): "chosen"} if record.chosen in places else {}
    return Table(rows, marked=marked)


def draw(record: RunRecord) -> "matplotlib.figure.Figure":
    """Draw the loss on each split by outer step."""
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
    legend(axes)
    return figure
