"""A data set of the package ``datasets``, saved or named, as a problem.

Pictures with a label are classes, numbers with a label are a table, and texts are continued by a
language model: by their label, if there is one.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine.errors import ConfigurationError, DataError
from engine.models.losses import per_example_cross_entropy
from engine.problems.base import Problem
from engine.problems.data.bounded import refuse_twice
from engine.problems.data.splits import Examples
from engine.problems.pairs.images import BOUNDS, standardized
from engine.problems.pairs.pictures import decode, shown_picture
from engine.problems.passage import Passage
from engine.problems.saved.reading import (
    ColumnRoles,
    DataRequest,
    SplitRows,
    are_pictures,
    are_texts,
    is_empty,
    picture_bytes,
    plain,
    read_splits,
)
from engine.problems.scores import class_scores
from engine.problems.tables.groups import check_groups, groups_of
from engine.problems.tables.labels import class_name, refuse_classes
from engine.problems.tables.problem import TableColumns, rows_problem
from engine.problems.texts.instructions import passages_problem
from engine.problems.texts.learner import Models
from engine.problems.user_models import model_maker
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.text import LanguageModelSettings, LanguageSettings, TextSettings


def hf_dataset_problem(
    asked: DataRequest, model: ModelSettings | str, text: TextSettings, language: LanguageSettings
) -> Problem:
    """Return a data set as a problem of the kind that its columns are.

    Raises:
        DataError: If it cannot be read, or a column is not there or cannot be used.
        ConfigurationError: If the package is missing, or the model does not fit.
    """
    columns = asked.columns
    check_groups(columns.groups, columns.label)
    splits, notes = read_splits(asked)
    train = splits["train"].table
    groups, said = groups_of({name: plain(train, name) for name in columns.groups})
    notes += said
    if are_pictures(train, columns.inputs[0]):
        made = _pictures(splits, asked, model)
    elif are_texts(train, columns.inputs[0]):
        made = _texts(splits, asked, (_language_model(model), language), text, groups)
    else:
        made = _numbers(splits, asked, model)
    return replace(made, notes=(*notes, *made.notes), groups={**groups, **made.groups})


def _pictures(
    splits: dict[str, SplitRows], asked: DataRequest, model: ModelSettings | str
) -> Problem:
    inputs, label, _ = asked.columns
    if len(inputs) != 1 or label is None:
        raise ConfigurationError(
            f"arguments.inputs is {list(inputs)} and arguments.label is {label!r}, but "
            "pictures are one column, and another one has their class. Name one of each."
        )
    (column,) = inputs
    labels = {name: [*map(class_name, plain(rows.table, label))] for name, rows in splits.items()}
    classes = sorted(set(labels["train"]))
    refuse_classes(classes, label)
    examples = {}
    for name, rows in splits.items():
        strange = sorted(set(labels[name]) - set(classes))
        if strange:
            raise DataError(
                f"The {name} rows have the label {strange[0]}, which no training row has. Remove "
                "these rows, or give training rows of it."
            )
        numbers = torch.tensor([classes.index(each) for each in labels[name]])
        examples[name] = Examples(_pixels(rows, column, name, asked), numbers)
    return Problem(
        model=model_maker(model, (3, asked.size, asked.size), len(classes)),
        loss=per_example_cross_entropy,
        num_classes=len(classes),
        groups={label: labels["train"]},
        classes=classes,
        names=_row_names(labels["train"]),
        show=lambda place: _show_cell(splits["train"], column, place),
        held_out_names={name: _row_names(each) for name, each in labels.items() if name != "train"},
        show_held_out=lambda split, place: _show_cell(splits[split], column, place),
        bounds=BOUNDS,
        score=class_scores,
        **examples,
    )


def _pixels(rows: SplitRows, column: str, name: str, asked: DataRequest) -> torch.Tensor:
    """Return the pictures of a split, decoded and scaled."""
    pixels = [
        decode(
            picture_bytes(each, rows.source, where),
            asked.size,
            where,
            asked.max_pixels,
            "arguments.max_pixels",
        )
        for each, where in (
            (each, f"row {place} of {name}") for place, each in enumerate(plain(rows.table, column))
        )
    ]
    return standardized(pixels, torch.get_default_dtype())


def _show_cell(rows: SplitRows, column: str, place: int) -> Any:  # noqa: ANN401 (an image of Pillow)
    table = rows.table
    bare = table.cast_column(column, type(table.features[column])(decode=False))
    return shown_picture(picture_bytes(bare[place][column], rows.source, f"row {place}"))


def _row_names(labels: list[str]) -> list[str]:
    return [f"row {place}, {each}" for place, each in enumerate(labels)]


def _texts(
    splits: dict[str, SplitRows],
    asked: DataRequest,
    models: Models,
    text: TextSettings,
    groups: dict[str, list[str]],
) -> Problem:
    passages = {
        name: [
            Passage(prompt, response, "dataset", f"{rows.source}, {name}", place)
            for place, (prompt, response) in enumerate(_prompts(rows.table, asked.columns))
        ]
        for name, rows in splits.items()
    }
    label = asked.columns.label
    known = {label: [each.completion for each in passages["train"]]} if label else {}
    return passages_problem(passages, text, models, groups=groups | known)


def _language_model(model: ModelSettings | str) -> LanguageModelSettings | str:
    """Return the sizes that were set as those of a language model."""
    if isinstance(model, str):
        return model
    sizes = {
        name: getattr(model, name)
        for name, field in ModelSettings.model_fields.items()
        if name != "name" and getattr(model, name) != field.default
    }
    return LanguageModelSettings(**sizes)


def _prompts(table: Any, columns: ColumnRoles) -> list[tuple[str, str]]:  # noqa: ANN401 (whatever is handed in)
    rows = zip(*(plain(table, name) for name in columns.inputs), strict=True)
    texts = ["\n".join(str(part) for part in row if not is_empty(part)) for row in rows]
    if columns.label is None:
        return [("", each) for each in texts]
    return list(zip(texts, map(str, plain(table, columns.label)), strict=True))


def _numbers(
    splits: dict[str, SplitRows], asked: DataRequest, model: ModelSettings | str
) -> Problem:
    label = asked.columns.label
    if label is None:
        raise ConfigurationError(
            "arguments.label is empty, but columns of numbers are there to predict one. Name it."
        )
    columns: dict[str, dict[str, list[Any]]] = {}
    for name, (table, _) in splits.items():
        found: dict[str, list[Any]] = {}
        for each in asked.columns.inputs:
            spread = _spread(each, plain(table, each), name)
            refuse_twice((*found, *spread, label), f"The data set {asked.source}")
            found |= spread
        columns[name] = found | {label: plain(table, label)}
    features = tuple(name for name in columns["train"] if name != label)
    return rows_problem(columns, TableColumns(label, features, None), model)


def _spread(name: str, values: list[Any], split: str) -> dict[str, list[Any]]:
    """Return a column of lists as one column for each place in them."""
    if not any(isinstance(value, list) for value in values):
        return {name: values}
    try:
        arrays = [np.asarray([] if value is None else value, dtype=float) for value in values]
    except (TypeError, ValueError) as error:  # a list of pictures, of texts, or of unequal lists
        raise DataError(
            f"The column {name!r} of the {split} rows has lists of what is no number. Leave it out "
            "of arguments.inputs."
        ) from error
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        found = " and ".join(" x ".join(map(str, shape)) or "1" for shape in sorted(shapes)[:2])
        raise DataError(
            f"The column {name!r} of the {split} rows has lists of {found} numbers, but a model "
            "reads as many of each row. Leave it out of arguments.inputs."
        )
    flat = [array.reshape(-1).tolist() for array in arrays]
    return {f"{name}_{at}": [row[at] for row in flat] for at in range(len(flat[0]))}
