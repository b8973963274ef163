"""The selected subset as files, for use elsewhere: one row for each training candidate.

CSV always; Parquet where pyarrow is installed, which is an extra. Texts of the CSV file that a
spreadsheet would take for a formula begin with an apostrophe there; Parquet has them as they are.
"""

import csv
import io
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from engine.problems.data.own_examples import OwnExamples
from engine.problems.data.splits import DataSet
from engine.problems.pairs.splits import Pairs
from engine.recipes.descent import DescentRecipe
from engine.reports.spreadsheets import safe_cell


def selection_columns(value: Tensor, score: Tensor, data: DataSet) -> dict[str, list[Any]]:
    """Return the columns of a selection, the candidates in the order of the training split.

    Args:
        value: Count or weight of each candidate at the chosen iterate, shape (examples,).
        score: First metagradient; positive where more of a candidate raises the loss.
        data: The candidates.
    """
    train = data.splits["train"]
    own = isinstance(train, OwnExamples)  # whose labels nobody here knows
    columns: dict[str, list[Any]] = {"id": data.numbers}
    counts = bool((value == value.round()).all())
    columns["count" if counts else "weight"] = value.to(torch.int64 if counts else None).tolist()
    columns["score"] = score.to(torch.float64).tolist()
    if isinstance(train, Pairs):
        columns |= {"name": list(train.names)} if train.names else {}
        columns["caption"] = list(train.captions)
    elif data.names:
        columns["name"] = list(data.names)
    if not own and not isinstance(train, Pairs) and train.labels.ndim == 1:
        columns |= _labels("label", "class", train.labels, data.classes)
    if data.true_labels is not None:
        columns |= _labels("true_label", "true_class", data.true_labels, data.classes)
    if data.texts is not None:
        passages = data.texts.splits["train"]
        columns["source"] = [passage.source for passage in passages]
        columns["file"] = [passage.file for passage in passages]
        columns["line"] = [passage.line for passage in passages]
    if data.corrupted.any():
        columns["corrupted"] = data.corrupted.tolist()
    return columns


def _labels(label: str, name: str, labels: Tensor, classes: Sequence[str]) -> dict[str, list[Any]]:
    """Return a column of labels, and one of what people call them where they have names."""
    numbers = labels.tolist()
    return {label: numbers} | ({name: [classes[each] for each in numbers]} if classes else {})


def selection_files(
    recipe: DescentRecipe, value: Tensor, score: Tensor, data: DataSet
) -> dict[str, bytes]:
    """Return ``selection.csv``, and ``selection.parquet`` where that can be written, by name.

    There are none for metaparameters that select no examples.
    """
    if not recipe.metaparameters.about.selects_examples:
        return {}
    columns = selection_columns(value, score, data)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    safe = [[safe_cell(value) for value in column] for column in columns.values()]
    writer.writerows(zip(*safe, strict=True))
    files = {"selection.csv": text.getvalue().encode()}
    if find_spec("pyarrow") is not None:
        # By name, because it is an extra: a second of import that other runs can spare.
        table = import_module("pyarrow").table(columns)
        buffer = io.BytesIO()
        import_module("pyarrow.parquet").write_table(table, buffer)
        files["selection.parquet"] = buffer.getvalue()
    return files
