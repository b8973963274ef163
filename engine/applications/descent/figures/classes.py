"""Section of a selection by class: how many of each were dropped, and how many were kept."""

import torch
from torch import Tensor

from engine.applications.descent.figures.examples import left_out
from engine.applications.descent.material import Material
from engine.problems.data.splits import DataSet
from engine.reports.sections import Section, Table
from engine.reports.units import write_percent

SHOWN = 20
"""Classes in the table; of more, those that lost most and those that lost least."""


def section(run: Material) -> Section | None:
    """Return the share dropped of each class; None without selected examples or classes."""
    labels, value = run.data.class_of_each, run.curves.value
    if not run.record.recipe.metaparameters.about.selects_examples:
        return None
    if labels is None or len(labels) != len(value):
        return None
    dropped, out, kept = left_out(value)
    order = _most_first(labels, dropped)
    rows = [_row(run.data, labels, dropped, number, (out, kept)) for number in order]
    notes = [_most_and_least_dropped(run.data, labels, dropped, order, out)]
    if len(rows) > SHOWN:
        half = SHOWN // 2
        notes.append(
            f"The {half} of {len(rows)} classes that lost most, and the {half} that lost least."
        )
        rows = rows[:half] + rows[-half:]
    return Section("By class", notes=notes, tables=[Table(rows)])


def _most_first(labels: Tensor, dropped: Tensor) -> list[int]:
    """Return the classes that have candidates, that first of which most was dropped, by share."""
    number = labels.bincount()
    share = labels[dropped].bincount(minlength=len(number)) / number.clamp(min=1)
    order = share.argsort(descending=True, stable=True).tolist()
    return [each for each in order if number[each]]


def _row(
    data: DataSet, labels: Tensor, dropped: Tensor, number: int, words: tuple[str, str]
) -> dict[str, object]:
    """Return a class as a row: by its given label, and by the true one where that is known."""
    out, kept = words
    own = labels == number
    lost = int((own & dropped).sum())
    row: dict[str, object] = {
        "class": data.class_name(number),
        "candidates": int(own.sum()),
        # In one column: a table of more than seven is wider than the text around it.
        out: f"{lost} ({write_percent(lost / int(own.sum()))})",
        kept: int((own & ~dropped).sum()),
    }
    if data.corrupted.any():
        for word, which in ((out, dropped), (kept, ~dropped)):
            row[f"{word}, known to be wrong"] = int((own & which & data.corrupted).sum())
    if data.true_labels is not None:
        row[f"{out}, truly of this class"] = int((dropped & (data.true_labels == number)).sum())
    return row


def _most_and_least_dropped(
    data: DataSet, labels: Tensor, dropped: Tensor, order: list[int], out: str
) -> str:
    """Say in a sentence which class lost most, and which lost least."""
    if not dropped.any():
        return "By the label that was given: no candidate of any class was dropped."

    def share_dropped(number: int) -> str:
        own = labels == number
        lost, of = int((own & dropped).sum()), int(own.sum())
        return f"class {data.class_name(number)}, {lost} of {of} ({write_percent(lost / of)})"

    does = "was dropped" if out == "dropped" else "weighs less than the mean"
    most, least = share_dropped(order[0]), share_dropped(order[-1])
    if torch.equal(labels, labels[:1].expand_as(labels)):
        return f"By the label that was given, there is one class: of {most} {does}."
    return f"By the label that was given: most {does} of {most}, and least of {least}."
