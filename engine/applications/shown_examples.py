"""Examples as reports show them: a picture, a text, or a row of a table.

A pair is shown as its picture and caption, a text as its passage, a tensor as a picture or as its
numbers. A problem may bring a function ``show`` of its own. If that function fails, the report
shows its error in place of the example, because the failure does not concern the run.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from engine.problems.data.own_examples import OwnExamples
from engine.problems.data.splits import DataSet, Examples
from engine.problems.pairs.splits import Pairs
from engine.problems.passage import Passage
from engine.reports.page import as_source
from engine.reports.pictures import alone
from engine.reports.sections import Card, Table

LONGEST = 200
"""Letters of a text that are shown."""

COLUMNS = 6
"""Numbers of an example that are shown one by one; of more, the first ones."""

_COLUMNS = 6
"""Of a row of a data set that a page shows, which has room for some ten."""


@dataclass(frozen=True)
class ShownExample:
    """An example as a report shows it.

    Attributes:
        name: What people call it, or its number.
        image: A picture as a page holds it; empty if there is none.
        text: Its caption, its passage, or its label.
        row: Name to value, for an example that is a row of a table.
    """

    name: str
    image: str = ""
    text: str = ""
    row: Mapping[str, str] = field(default_factory=dict)


def candidate(data: DataSet, place: int, number: int | None = None) -> ShownExample:
    """Return a training candidate.

    Args:
        data: Data whose candidate it is.
        place: Place in the training split.
        number: What it is called where it has no name; by default its id in the data set.
    """
    train = data.splits["train"]
    known = place if data.ids is None else int(data.ids[place])
    name = data.names[place] if data.names else f"#{known if number is None else number}"
    if isinstance(train, Pairs):
        pair = train.inputs[torch.tensor([place])][0]
        return ShownExample(
            train.names[place] if train.names else name, alone(pair), train.captions[place]
        )
    if data.show is None:
        return _with_truth(_plain(data, "train", place, name), data, place)
    shown = _own(data.show, place, name)
    given = data.class_of_each
    if data.true_labels is not None and given is not None:
        said = data.class_name(int(given[place]))
        text = shown.text if shown.row else ", ".join(filter(None, [shown.text, f"label {said}"]))
        row = {**shown.row, "label": said} if shown.row else {}
        shown = replace(shown, text=text, row=row)
    return _with_truth(shown, data, place)


def _with_truth(look: ShownExample, data: DataSet, place: int) -> ShownExample:
    """Return a training candidate with its true label, where that is known."""
    if data.true_labels is None:
        return look
    true = data.class_name(int(data.true_labels[place]))
    if look.row:
        *others, label = look.row.items()
        return replace(look, row=dict([*others, ("true label", true), label]))
    given = data.class_of_each
    differs = given is not None and int(given[place]) != int(data.true_labels[place])
    return replace(look, text=f"{look.text}, truly {true}") if differs else look


def held_out(data: DataSet, split: str, place: int, name: str) -> ShownExample:
    """Return an example of a held-out split.

    Args:
        data: Data whose example it is.
        split: Objective, validation or test.
        place: Place in the split.
        name: What the example is called where it has no name.
    """
    known = data.held_out_names.get(split, ())
    called = known[place] if known else name
    if data.show_held_out is not None:
        return _own(partial(data.show_held_out, split), place, called)
    return _plain(data, split, place, called)


def _plain(data: DataSet, split: str, place: int, name: str) -> ShownExample:
    """Return an example of any split for which the problem has no display of its own."""
    examples = data.splits[split]
    if data.texts is not None:
        passage = data.texts.splits[split][place]
        return ShownExample(f"{passage.source}, line {passage.line}", text=one_line(passage))
    if isinstance(examples, OwnExamples):
        return _sample(examples.at(torch.tensor([place])), name)
    inputs, label = examples.inputs[place], examples.labels[place]
    said = ""
    if label.numel() == 1:
        said = data.classes[int(label)] if data.classes else _value(label)
    if inputs.ndim >= 2:
        return ShownExample(name, alone(inputs), said and f"label {said}")
    return ShownExample(
        name, row={**_numbers("input", inputs), **({"label": said} if said else {})}
    )


def one_line(passage: Passage) -> str:
    """Return a passage on one line, its prompt and completion told apart, and not too long."""
    parts = (passage.prompt, passage.completion) if passage.prompt else (passage.completion,)
    return _cut(" \u2192 ".join(" ".join(part.split()) for part in parts))


def together(
    looks: Sequence[ShownExample],
    notes: Sequence[str],
    *,
    wrong: Sequence[bool] = (),
    tones: Sequence[str] = (),
    what: str = "score",
) -> Sequence[Card] | Table:
    """Return examples as cards, or as one table if they are rows of one.

    Args:
        looks: The examples.
        notes: A number of each; empty where there is none.
        wrong: Which are known to be wrong; none by default.
        tones: Colour of each frame; see ``Card``.
        what: Head of the column of the numbers, in a table.
    """
    wrong, tones = list(wrong) or [False] * len(looks), list(tones) or [""] * len(looks)
    if not all(each.row for each in looks):
        said = [each.text or ", ".join(f"{k} {v}" for k, v in each.row.items()) for each in looks]
        return [
            Card({"": each.image} if each.image else {}, each.name, text, note, marked, tone)
            for each, text, note, marked, tone in zip(looks, said, notes, wrong, tones, strict=True)
        ]
    names, hidden = _shown_columns(list(dict.fromkeys(n for each in looks for n in each.row)))
    rows = [
        # The number stands where a narrow screen shows it, however many columns there are.
        {"example": each.name}
        | ({what: note} if any(notes) else {})
        | {name: each.row.get(name, "") for name in names}
        | ({f"and {hidden} more columns": "..."} if hidden else {})
        for each, note in zip(looks, notes, strict=True)
    ]
    if any(wrong):
        rows = [row | {"known": "wrong" * marked} for row, marked in zip(rows, wrong, strict=True)]
    return Table(rows, named=frozenset(names))


def _shown_columns(names: list[str]) -> tuple[list[str], int]:
    """Return the columns that a page has room for, and how many are left out."""
    if len(names) <= _COLUMNS:
        return names, 0
    return [*names[: _COLUMNS - 1], names[-1]], len(names) - _COLUMNS  # the last one is the label


def _own(show: Callable[[int], Any], place: int, name: str) -> ShownExample:
    """Return an example as the problem's own function shows it: a picture, a text, or a row."""
    try:
        found: Any = show(place)
        if hasattr(found, "save"):  # as pictures of Pillow have
            stream = io.BytesIO()
            found.save(stream, format="PNG")
            return ShownExample(name, as_source(stream.getvalue()))
        if isinstance(found, Mapping):
            row = {str(key): "missing" if v is None else _cut(str(v)) for key, v in found.items()}
            return ShownExample(name, row=row)
        return ShownExample(name, text=_cut(found if isinstance(found, str) else repr(found)))
    except Exception as error:  # a user's code
        return _failed(name, error)


def _sample(one: Examples, name: str) -> ShownExample:
    """Return an example of columns or of a data set by index, as a row of what it has."""
    try:
        batch: Any = one.batches(torch.device("cpu"))
        sample = batch[torch.tensor([0])] if not isinstance(batch, tuple | dict) else batch
    except Exception as error:  # a user's code
        return _failed(name, error)
    image, row = "", {}
    for key, leaf in _columns(sample):
        value = leaf[0] if isinstance(leaf, Tensor) and leaf.ndim else leaf
        if isinstance(value, Tensor) and value.ndim in (2, 3) and not image:
            image = alone(value)
        elif isinstance(value, Tensor):
            row |= _numbers(key, value)
        elif isinstance(value, str | Real):
            row[key] = _cut(str(value))
    if image:
        return ShownExample(
            name, image, _cut(", ".join(f"{key} {value}" for key, value in row.items()))
        )
    return ShownExample(name, row=row)


def _failed(name: str, error: Exception) -> ShownExample:
    return ShownExample(name, text=_cut(f"It cannot be shown ({type(error).__name__}: {error})."))


def _columns(sample: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 (a batch of anybody's)
    if isinstance(sample, Mapping):
        return [(str(key), value) for key, value in sample.items()]
    if isinstance(sample, tuple | list):
        names = getattr(sample, "_fields", range(len(sample)))
        return [(str(name), value) for name, value in zip(names, sample, strict=True)]
    return [("value", sample)]


def _numbers(name: str, values: Tensor) -> dict[str, str]:
    """Return the first numbers of an example under one name, and how many there are."""
    flat = values.flatten()
    if len(flat) <= 1:
        return {name: _value(flat[0])} if len(flat) else {}
    more = ", ..." if len(flat) > COLUMNS else ""
    return {name: ", ".join(_value(each) for each in flat[:COLUMNS]) + more}


def _value(number: Tensor) -> str:
    return f"{number.item():.3g}" if number.is_floating_point() else str(number.item())


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"
