"""A data set of the package ``datasets``, saved or named, as a problem.

Pictures with a label are classes, numbers with a label are a table, and texts are continued by a
language model: by their label, if there is one.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from engine.errors import ConfigurationError, DataError
from engine.extras import install
from engine.models.losses import per_example_cross_entropy
from engine.numerics.determinism import generator
from engine.problems.base import Problem
from engine.problems.data_cards import refuse_places, refuse_saved_places
from engine.problems.pairs.images import BOUNDS, standardized
from engine.problems.pairs.pictures import decode, shown_picture
from engine.problems.passage import Passage
from engine.problems.scores import class_scores
from engine.problems.splits import Examples
from engine.problems.tables.labels import refuse_one_class
from engine.problems.tables.problem import Wanted, rows_problem
from engine.problems.user_models import model_maker
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.text import LanguageModelSettings, LanguageSettings, TextSettings
from engine.secret_urls import beginning

_HELD_OUT = ("validation", "valid", "dev")
"""Names of the split that objective and validation are cut from."""

_SHOWN = 5


class Asked(NamedTuple):
    """What is read of a data set."""

    source: str
    """Folder, file, or name on the Hub."""

    inputs: tuple[str, ...]
    """Columns that the model reads."""

    label: str | None
    """Column of the label; none for texts that are learned whole."""

    hub: bool
    """Whether the source is a name on the Hub."""

    held_out: float
    """Share of the training rows that are held out where there is no split for it."""

    seed: int
    """Seeds which."""

    size: int
    """Height and width of pictures."""

    max_pixels: int
    """Most pixels of a picture."""


def hf_dataset_problem(
    asked: Asked, model: ModelSettings | str, text: TextSettings, language: LanguageSettings
) -> Problem:
    """Return a data set as a problem of the kind that its columns are.

    Raises:
        DataError: If it cannot be read, or a column is not there or cannot be used.
        ConfigurationError: If the package is missing, or the model does not fit.
    """
    splits, notes = _splits(asked)
    _check_columns(splits, asked)
    kept, left = {}, []
    for name, table in splits.items():
        kept[name] = _filled(table, asked, name, left)
    if left:
        shown = ", ".join(left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        notes.append(f"{len(left)} rows without a label or any input were left out: {shown}.")
    values = kept["train"].features[asked.inputs[0]]
    if type(values).__name__ == "Image":
        return _pictures(kept, asked, model, tuple(notes))
    if getattr(values, "dtype", None) in ("string", "large_string"):
        return _texts(kept, asked, model, (text, language), tuple(notes))
    return _numbers(kept, asked, model, tuple(notes))


def _library() -> Any:  # noqa: ANN401 (a module, by name, because it is an extra)
    if find_spec("datasets") is None:
        raise ConfigurationError(
            f"problem=hf_dataset needs the package datasets. Run: {install('datasets')}."
        )
    return import_module("datasets")


def _load(asked: Asked) -> Any:  # noqa: ANN401 (whatever is handed in)
    """Return what is stored, as a table or as a dict of splits."""
    library, source = _library(), asked.source
    path = Path(source)
    if not (asked.hub or "://" in source or path.exists()):
        raise DataError(
            f"There is no {source} here. Correct arguments.source, or, if it is the name of a data "
            "set on the Hub, set arguments.hub=true."
        )
    try:
        library.disable_progress_bars()
        if asked.hub:
            return library.load_dataset(source)
        saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
        kinds = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
        kinds |= {".json": "json", ".jsonl": "json"}
        if saved or ("://" in source and path.suffix not in kinds):
            if path.is_dir():
                refuse_saved_places(path)
            return library.load_from_disk(source)
        if path.is_dir():
            refuse_places(path)
            return library.load_dataset(source)
        return library.load_dataset(kinds.get(path.suffix, "json"), data_files=source)
    except DataError:
        raise
    except Exception as error:  # of several libraries
        reason = beginning((str(error).strip() or "no reason given").splitlines()[0], 300)
        raise DataError(
            f"{source} cannot be read by datasets ({type(error).__name__}: {reason}). Name a "
            "folder that save_to_disk has filled, or a file of Parquet, JSON lines or CSV."
        ) from error


def _splits(asked: Asked) -> tuple[dict[str, Any], list[str]]:
    """Return train, objective and perhaps test, by the splits that the data set has."""
    given = _load(asked)
    stored: dict[str, Any] = dict(given) if isinstance(given, dict) else {"train": given}
    # What a data set was saved to be read as (tensors, arrays, some columns) is somebody else's.
    stored = {name: table.with_format(None) for name, table in stored.items()}
    if "train" not in stored:
        raise DataError(
            f"{asked.source} has the splits {', '.join(stored)}, and no train. Save one of that "
            "name."
        )
    found = {"train": stored["train"]}
    own = next((name for name in _HELD_OUT if name in stored), None)
    notes = []
    if own is not None:
        found["objective"] = stored[own]
        notes.append(f"The objective examples are of the split {own} of the data set.")
    else:
        found["train"], found["objective"] = _hold_out(stored["train"], asked)
        notes.append(
            f"The data set has no split validation, so {len(found['objective'])} of its training "
            "rows are held out."
        )
    if "test" in stored:
        found["test"] = stored["test"]
    return found, notes


def _hold_out(table: Any, asked: Asked) -> tuple[Any, Any]:  # noqa: ANN401 (whatever is handed in)
    total = len(table)
    number = min(max(round(asked.held_out * total), 1), total - 1)
    if number < 1:
        raise DataError(f"{asked.source} has {total} rows, too few to hold any out. Give more.")
    order = torch.randperm(total, generator=generator(asked.seed, "held-out rows")).tolist()
    return table.select(sorted(order[number:])), table.select(sorted(order[:number]))


def _check_columns(splits: dict[str, Any], asked: Asked) -> None:
    for split, table in splits.items():
        for name in (*asked.inputs, *([asked.label] if asked.label else [])):
            if name not in table.column_names:
                raise DataError(
                    f"The {split} rows of {asked.source} have no column {name!r}; they have "
                    f"{', '.join(table.column_names)}. Correct arguments.inputs or "
                    "arguments.label."
                )


def _filled(table: Any, asked: Asked, split: str, left: list[str]) -> Any:  # noqa: ANN401 (whatever is handed in)
    """Return the rows that have a label and an input; note the others."""
    names = [*asked.inputs, *([asked.label] if asked.label else [])]
    columns = {name: _plain(table, name) for name in names}
    kept = []
    for place in range(len(table)):
        empty = all(_is_empty(columns[name][place]) for name in asked.inputs)
        lost = asked.label is not None and _is_empty(columns[asked.label][place])
        if empty or lost:
            left.append(f"row {place} of {split}")
        else:
            kept.append(place)
    if not kept:
        raise DataError(
            f"All {len(table)} {split} rows of {asked.source} lack a label or any input. Correct "
            "arguments.inputs or arguments.label."
        )
    return table if len(kept) == len(table) else table.select(kept)


def _is_empty(value: Any) -> bool:  # noqa: ANN401 (a cell)
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _plain(table: Any, name: str) -> list[Any]:  # noqa: ANN401 (whatever is handed in)
    """Return a column as Python values; a class is its name, a picture what is stored of it."""
    feature = table.features[name]
    if type(feature).__name__ == "Image":
        bare = table.cast_column(name, type(feature)(decode=False))
        return list(bare[name])
    # As it is stored: the library would open what a cell of a sound, a video or a list of pictures
    # names, wherever that is.
    values = table.select_columns([name]).with_format("arrow")[:].column(name).to_pylist()
    if type(feature).__name__ == "ClassLabel":
        return [None if v is None or v < 0 else feature.int2str(v) for v in values]
    return values


def _bytes(picture: dict[str, Any], source: str, where: str) -> bytes:
    """Return the bytes of a picture, in the data set or in a file of its folder."""
    if picture["bytes"]:
        return picture["bytes"]
    root, path = Path(source).resolve(), Path(picture["path"] or "").resolve()
    root = root if root.is_dir() else root.parent
    if not path.is_relative_to(root) or not path.is_file():  # a device or a pipe has no end
        raise DataError(
            f"The picture of {where} is {picture['path']}, which is no file below {root}. Save "
            "the data set with its pictures in it, by Dataset.save_to_disk."
        )
    return path.read_bytes()


def _pictures(
    tables: dict[str, Any], asked: Asked, model: ModelSettings | str, notes: tuple[str, ...]
) -> Problem:
    if len(asked.inputs) != 1 or asked.label is None:
        raise ConfigurationError(
            f"arguments.inputs is {list(asked.inputs)} and arguments.label is {asked.label!r}, but "
            "pictures are one column, and another one has their class. Name one of each."
        )
    (column,) = asked.inputs
    labels = {name: list(map(str, _plain(table, asked.label))) for name, table in tables.items()}
    classes = sorted(set(labels["train"]))
    refuse_one_class(classes, asked.label)
    splits = {}
    for name, table in tables.items():
        strange = sorted(set(labels[name]) - set(classes))
        if strange:
            raise DataError(
                f"The {name} rows have the label {strange[0]}, which no training row has. Remove "
                "these rows, or give training rows of it."
            )
        content = _plain(table, column)
        pixels = [
            decode(
                _bytes(each, asked.source, where),
                asked.size,
                where,
                asked.max_pixels,
                "arguments.max_pixels",
            )
            for each, where in (
                (each, f"row {place} of {name}") for place, each in enumerate(content)
            )
        ]
        inputs = standardized(pixels, torch.get_default_dtype())
        numbers = torch.tensor([classes.index(each) for each in labels[name]])
        splits[name] = Examples(inputs, numbers)
    train = tables["train"]
    return Problem(
        model=model_maker(model, (3, asked.size, asked.size), len(classes)),
        loss=per_example_cross_entropy,
        num_classes=len(classes),
        groups={asked.label: labels["train"]},
        classes=classes,
        names=_row_names(labels["train"]),
        show=lambda place: _shown(train, column, place, asked.source),
        held_out_names={name: _row_names(each) for name, each in labels.items() if name != "train"},
        show_held_out=lambda split, place: _shown(tables[split], column, place, asked.source),
        bounds=BOUNDS,
        notes=notes,
        score=class_scores,
        **splits,
    )


def _shown(table: Any, column: str, place: int, source: str) -> Any:  # noqa: ANN401 (an image of Pillow)
    bare = table.cast_column(column, type(table.features[column])(decode=False))
    return shown_picture(_bytes(bare[place][column], source, f"row {place}"))


def _row_names(labels: list[str]) -> list[str]:
    return [f"row {place}, {each}" for place, each in enumerate(labels)]


def _texts(
    tables: dict[str, Any],
    asked: Asked,
    model: ModelSettings | str,
    settings: tuple[TextSettings, LanguageSettings],
    notes: tuple[str, ...],
) -> Problem:
    from engine.problems.texts.instructions import passages_problem  # its packages are an extra

    if isinstance(model, str):
        raise ConfigurationError(
            f"arguments.model is {model}, but texts are continued by a language model. Leave it "
            "out, and set arguments.language."
        )
    text, language = settings
    passages = {
        name: [
            Passage(prompt, response, "dataset", f"{asked.source}, {name}", place)
            for place, (prompt, response) in enumerate(_prompts(table, asked))
        ]
        for name, table in tables.items()
    }
    sizes = {
        name: getattr(model, name)
        for name, field in ModelSettings.model_fields.items()
        if name != "name" and getattr(model, name) != field.default
    }
    groups = {asked.label: [each.completion for each in passages["train"]]} if asked.label else {}
    return passages_problem(
        passages, text, (LanguageModelSettings(**sizes), language), notes, groups=groups
    )


def _prompts(table: Any, asked: Asked) -> list[tuple[str, str]]:  # noqa: ANN401 (whatever is handed in)
    rows = zip(*(_plain(table, name) for name in asked.inputs), strict=True)
    texts = ["\n".join(str(part) for part in row if not _is_empty(part)) for row in rows]
    if asked.label is None:
        return [("", each) for each in texts]
    return list(zip(texts, map(str, _plain(table, asked.label)), strict=True))


def _numbers(
    tables: dict[str, Any], asked: Asked, model: ModelSettings | str, notes: tuple[str, ...]
) -> Problem:
    if asked.label is None:
        raise ConfigurationError(
            "arguments.label is empty, but columns of numbers are there to predict one. Name it."
        )
    columns: dict[str, dict[str, list[Any]]] = {}
    for name, table in tables.items():
        found: dict[str, list[Any]] = {}
        for each in asked.inputs:
            found |= _spread(each, _plain(table, each), name)
        columns[name] = found | {asked.label: _plain(table, asked.label)}
    features = tuple(name for name in columns["train"] if name != asked.label)
    return rows_problem(columns, Wanted(asked.label, features, None), model, notes)


def _spread(name: str, values: list[Any], split: str) -> dict[str, list[Any]]:
    """Return a column of lists as one column for each place in them."""
    if not any(isinstance(value, list) for value in values):
        return {name: values}
    lengths = {len(value) if isinstance(value, list) else 0 for value in values}
    if len(lengths) != 1:
        raise DataError(
            f"The column {name!r} of the {split} rows has lists of {sorted(lengths)[:4]} numbers, "
            "but a model reads as many of each row. Leave it out of arguments.inputs."
        )
    try:
        flat = [np.asarray(value, dtype=float).reshape(-1).tolist() for value in values]
    except (TypeError, ValueError) as error:  # a list of pictures, of texts, or of unequal lists
        raise DataError(
            f"The column {name!r} of the {split} rows has lists of what is no number. Leave it out "
            "of arguments.inputs."
        ) from error
    return {f"{name}_{at}": [row[at] for row in flat] for at in range(len(flat[0]))}
