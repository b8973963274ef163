"""A data set of the package ``datasets``, read into splits whose columns are Python values."""

from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import ConfigurationError, DataError, EngineError
from engine.extras import install
from engine.problems.data.bounded import check_size, python_size
from engine.problems.data.data_cards import refuse_places, refuse_saved_places
from engine.problems.data.held_out import held_out_places, notes_of_single_classes
from engine.problems.saved.files import on_this_machine, refuse_files
from engine.problems.tables.labels import class_name, guessed
from engine.recipes.arguments.data import Target
from engine.secret_urls import beginning

_HELD_OUT = ("validation", "valid", "dev")
"""Names of the split that objective and validation are cut from."""

_ROW = 8
"""Bytes that a row takes at the least: its place in the order."""

_SHOWN = 5
"""Rows that were left out, by place in a sentence."""


class ColumnRoles(NamedTuple):
    """Columns of a data set by what they are."""

    inputs: tuple[str, ...]
    """What the model reads."""

    label: str | None
    """The label; none for texts that are learned whole."""

    groups: tuple[str, ...] = ()
    """What says of which group a candidate is, for mixtures."""

    @property
    def needed(self) -> tuple[str, ...]:
        """What every split has."""
        return (*self.inputs, *([self.label] if self.label else []))


class DataRequest(NamedTuple):
    """The parts of a data set that are to be read, and how."""

    source: str
    """Folder, file, or name on the Hub."""

    splits: dict[str, str | None]
    """Objective, validation and test: a split of the source, a source by itself, or nothing."""

    columns: ColumnRoles
    """Which columns are what."""

    hub: bool
    """Whether sources are names on the Hub."""

    held_out: float
    """Share of the training rows that are held out where there is no split for it."""

    seed: int
    """Seeds which."""

    size: int
    """Height and width of pictures."""

    max_pixels: int
    """Most pixels of a picture."""


class SplitRows(NamedTuple):
    """The rows of a split."""

    table: Any
    """Of ``datasets``."""

    source: str
    """Where they come from."""


def _library() -> Any:  # noqa: ANN401 (a module, by name, because it is an extra)
    if find_spec("datasets") is None:
        raise ConfigurationError(
            f"problem=hf_dataset needs the package datasets. Run: {install('datasets')}."
        )
    return import_module("datasets")


def _load(source: str, setting: str, *, hub: bool, known: Collection[str] = ()) -> dict[str, Any]:
    """Return a stored data set by the names of its splits; a table alone is called train.

    Args:
        source: Folder, file, or name on the Hub.
        setting: Argument that names it, for messages.
        hub: Whether it is a name on the Hub.
        known: Splits that the argument may name instead.
    """
    given = _stored(source, setting, hub=hub, known=known)
    stored: dict[str, Any] = dict(given) if isinstance(given, dict) else {"train": given}
    # What a data set was saved to be read as (tensors, arrays, some columns) is somebody else's.
    tables = {name: table.with_format(None) for name, table in stored.items()}
    for name, table in tables.items():
        # Rows of nothing take no byte, so there may be more of them than a memory has places for.
        check_size(_ROW * len(table), _bytes_of(table), f"The split {name} of {source}")
    return tables


def _bytes_of(table: Any) -> int:  # noqa: ANN401 (whatever is handed in)
    """Return the bytes of the files that a table is mapped from, or of itself if it is in memory.

    In a file several columns may be the same bytes, so what they add up to says nothing.
    """
    files = {each["filename"] for each in table.cache_files}
    return sum(Path(each).stat().st_size for each in files) if files else table.data.nbytes


def _stored(source: str, setting: str, *, hub: bool, known: Collection[str]) -> Any:  # noqa: ANN401 (whatever is handed in)
    library, path = _library(), Path(source)
    if not (hub or "://" in source or path.exists()):
        splits = f", which has the splits {', '.join(known)}" if known else ""
        raise DataError(
            f"There is no {source} here{splits and f', nor in arguments.source{splits}'}. Correct "
            f"arguments.{setting}, or, if it is the name of a data set on the Hub, set "
            "arguments.hub=true."
        )
    try:
        library.disable_progress_bars()
        if hub:
            return library.load_dataset(source)
        saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
        kinds = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
        kinds |= {".json": "json", ".jsonl": "json"}
        if "://" in source and path.suffix not in kinds:
            path, saved = Path(on_this_machine(source)), True
        if path.exists():
            refuse_files(path)
        if saved:
            refuse_saved_places(path)
            return library.load_from_disk(str(path))
        if path.is_dir():
            refuse_places(path)
            return library.load_dataset(source)
        return library.load_dataset(kinds.get(path.suffix, "json"), data_files=source)
    except EngineError:
        raise
    except Exception as error:  # of several libraries
        reason = beginning((str(error).strip() or "no reason given").splitlines()[0], 300)
        raise DataError(
            f"{source} cannot be read by datasets ({type(error).__name__}: {reason}). Name a "
            "folder that save_to_disk has filled, or a file of Parquet, JSON lines or CSV."
        ) from error


def read_splits(asked: DataRequest) -> tuple[dict[str, SplitRows], list[str]]:
    """Return train, objective and perhaps validation and test, and what people should know.

    Raises:
        DataError: If something cannot be read, lacks a column, or has no row to learn from.
        ConfigurationError: If the package is missing.
    """
    found, notes = _splits(asked)
    _check_columns(found, asked)
    kept, left = {}, list[str]()
    for name, rows in found.items():
        kept[name] = SplitRows(_filled(rows, asked, name, left), rows.source)
    if left:
        shown = ", ".join(left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        notes.append(f"{len(left)} rows without a label or any input were left out: {shown}.")
    return kept, notes


def _splits(asked: DataRequest) -> tuple[dict[str, SplitRows], list[str]]:
    """Return the splits that are asked for, that the data set has, or that are held out of it."""
    stored = _load(asked.source, "source", hub=asked.hub)
    if "train" not in stored:
        raise DataError(
            f"{asked.source} has the splits {', '.join(stored)}, and no train. Save one of that "
            "name."
        )
    found = {"train": SplitRows(stored["train"], asked.source)}
    for name, source in asked.splits.items():
        if source is not None:
            found[name] = _asked_for(source, name, stored, asked)
    notes = []
    own = next((name for name in _HELD_OUT if name in stored), None)
    if "objective" in found:
        # One that the data set has for it, unless it is what the objective was asked to be.
        if "validation" not in found and own is not None and own != asked.splits["objective"]:
            found["validation"] = SplitRows(stored[own], asked.source)
    elif own is not None and own != asked.splits["validation"]:
        found["objective"] = SplitRows(stored[own], asked.source)
        notes.append(f"The objective examples are of the split {own} of the data set.")
    else:
        train, objective = _hold_out(stored["train"], asked)
        found |= {
            "train": SplitRows(train, asked.source),
            "objective": SplitRows(objective, asked.source),
        }
        why = "has no split validation" if own is None else f"has its split {own} for validation"
        notes.append(f"The data set {why}, so {len(objective)} of its training rows are held out.")
        classes = [each for each in _drawn_classes(stored["train"], asked.columns) if each]
        notes += notes_of_single_classes(classes, f"The column {asked.columns.label!r}")
    others = (asked.splits["objective"], asked.splits["validation"])
    if "test" not in found and "test" in stored and "test" not in others:
        found["test"] = SplitRows(stored["test"], asked.source)
    return found, notes


def _asked_for(source: str, name: str, stored: dict[str, Any], asked: DataRequest) -> SplitRows:
    """Return the split of a data set that is asked for by name, or a data set by itself."""
    if source in stored:
        return SplitRows(stored[source], asked.source)
    tables = _load(source, name, hub=asked.hub, known=stored)
    chosen = name if name in tables else "train" if [*tables] == ["train"] else None
    if chosen is None:
        raise DataError(
            f"arguments.{name} is {source}, which has the splits {', '.join(tables)}, and none "
            f"called {name}. Save the rows by themselves, or as a split of that name."
        )
    return SplitRows(tables[chosen], source)


def _hold_out(table: Any, asked: DataRequest) -> tuple[Any, Any]:  # noqa: ANN401 (whatever is handed in)
    total, classes = len(table), _drawn_classes(table, asked.columns)
    kept, held = held_out_places(total, asked.held_out, asked.seed, classes)
    if not held:
        raise DataError(
            f"{asked.source} has {total} rows, too few to hold any out and keep one of every class "
            "to train on. Give more."
        )
    return table.select(kept), table.select(held)


def _drawn_classes(table: Any, columns: ColumnRoles) -> list[str | None]:  # noqa: ANN401 (whatever is handed in)
    """Return the class of each row, None if it has none; nothing if the labels are no classes."""
    label, first = columns.label, columns.inputs[0]
    if label is None or not {label, *columns.inputs} <= {*table.column_names}:
        return []
    if are_texts(table, first):
        return []
    values = plain(table, label)
    if not are_pictures(table, first) and guessed(values, label) is not Target.CLASS:
        return []
    inputs = zip(*(plain(table, name) for name in columns.inputs), strict=True)
    return [
        None if is_empty(value) or all(map(is_empty, row)) else class_name(value)
        for value, row in zip(values, inputs, strict=True)
    ]


def _check_columns(splits: dict[str, SplitRows], asked: DataRequest) -> None:
    for split, (table, source) in splits.items():
        groups = asked.columns.groups if split == "train" else ()
        missing = [n for n in (*asked.columns.needed, *groups) if n not in table.column_names]
        if missing:
            setting = "groups" if missing[0] in groups else "inputs or arguments.label"
            raise DataError(
                f"The {split} rows of {source} have no column {missing[0]!r}; they have "
                f"{', '.join(table.column_names)}. Correct arguments.{setting}."
            )
        for name in asked.columns.inputs:
            one, other = (are_pictures(each, name) for each in (splits["train"].table, table))
            if one != other:
                has, lacks = ("train", split) if one else (split, "train")
                raise DataError(
                    f"The column {name!r} of the {has} rows has pictures, and that of the {lacks} "
                    "rows has none. Give both the same columns."
                )


def are_pictures(table: Any, name: str) -> bool:  # noqa: ANN401 (whatever is handed in)
    """Say whether a column has pictures."""
    return type(table.features[name]).__name__ == "Image"


def are_texts(table: Any, name: str) -> bool:  # noqa: ANN401 (whatever is handed in)
    """Say whether a column has texts."""
    return getattr(table.features[name], "dtype", None) in ("string", "large_string")


def _filled(rows: SplitRows, asked: DataRequest, split: str, left: list[str]) -> Any:  # noqa: ANN401 (whatever is handed in)
    """Return the rows that have a label and an input; note the others."""
    table, (inputs, label, _) = rows.table, asked.columns
    columns = {name: plain(table, name) for name in asked.columns.needed}
    kept = []
    for place in range(len(table)):
        empty = all(is_empty(columns[name][place]) for name in inputs)
        lost = label is not None and is_empty(columns[label][place])
        if empty or lost:
            left.append(f"row {place} of {split}")
        else:
            kept.append(place)
    if not kept:
        raise DataError(
            f"All {len(table)} {split} rows of {rows.source} lack a label or any input. Correct "
            "arguments.inputs or arguments.label."
        )
    return table if len(kept) == len(table) else table.select(kept)


def is_empty(value: Any) -> bool:  # noqa: ANN401 (a cell)
    """Say whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def plain(table: Any, name: str) -> list[Any]:  # noqa: ANN401 (whatever is handed in)
    """Return a column as Python values; a class is its name, a picture what is stored of it."""
    feature = table.features[name]
    if are_pictures(table, name):
        bare = table.cast_column(name, type(feature)(decode=False))
        return list(bare[name])
    # As it is stored: the library would open what a cell of a sound, a video or a list of pictures
    # names, wherever that is.
    column = table.select_columns([name]).with_format("arrow")[:].column(name)
    check_size(python_size(column), _bytes_of(table), f"The column {name!r}")
    values = column.to_pylist()
    if type(feature).__name__ == "ClassLabel":
        return [None if v is None or v < 0 else feature.int2str(v) for v in values]
    return values


def picture_bytes(picture: dict[str, Any], source: str, where: str) -> bytes:
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
