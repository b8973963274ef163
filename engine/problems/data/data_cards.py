"""Refuses data sets whose own description points to files outside of their folder.

A folder of the package ``datasets`` has a card in YAML that may name any URL or path as a file of
the data set, and the library would open it. So the author of a data set could choose what this
machine connects to and which of its files are read. A folder written by ``save_to_disk`` names its
splits and files in JSON, as paths that the library joins without a check.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from engine.errors import DataError
from engine.secret_urls import beginning


def refuse_places(folder: Path) -> None:
    """Refuse a folder whose card says that its files are somewhere else.

    Raises:
        DataError: If it names a URL, or a path that leads out of the folder.
    """
    for each in _configurations(folder):
        for name in ("data_files", "data_dir"):
            outside = next((text for text in _texts_in(each.get(name)) if _is_outside(text)), None)
            if outside is not None:
                raise DataError(
                    f"The card of {folder} names {outside!r} as files of the data set, which are "
                    "not in that folder and so are not read. Put the files into it, and name them "
                    "by their paths in it."
                )


def refuse_saved_places(folder: Path) -> None:
    """Refuse a saved data set that names splits or files outside of its folder.

    Raises:
        DataError: If it does, or if what names them is damaged.
    """
    splits = _texts_in(_document(folder / "dataset_dict.json"))
    _refuse_outside(folder, splits)
    for split in ["", *splits]:
        if split and not (folder / split).is_dir():
            raise DataError(
                f"{folder} names the split {beginning(split, 40)!r}, for which it has no folder. "
                "Save the data set anew with save_to_disk."
            )
        _refuse_outside(
            folder, _texts_in(_document(folder / split / "state.json").get("_data_files"))
        )


def _refuse_outside(folder: Path, names: list[str]) -> None:
    outside = next(filter(_is_outside, names), None)
    if outside is not None:
        raise DataError(
            f"{folder} names {outside!r} as a part of the data set, which is not in that "
            "folder and so is not read. Save the data set anew with save_to_disk."
        )


def _document(file: Path) -> dict[str, Any]:
    """Return a JSON object of a saved data set; an empty one if it is not there."""
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged: {error}. Save the data set anew.") from error
    return content if isinstance(content, dict) else {}


_MOST_BYTES = 1 << 26


def _configurations(folder: Path) -> list[dict[str, Any]]:
    """Return the descriptions of files in a folder's card, as the library will read them.

    Raises:
        DataError: If the card is made to fill the memory.
    """
    found: Any = []
    file = folder / "README.md"
    if file.is_file():
        _refuse_large(file)
        content = import_module("huggingface_hub").DatasetCard.load(file).data.to_dict()
        _refuse_bomb(content, file)
        found = content.get("configs")
    file = folder / ".huggingface.yaml"
    if file.is_file():
        _refuse_large(file)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        _refuse_bomb(content, file)
        found = content.get("configs", found) if isinstance(content, dict) else found
    return [each for each in found or [] if isinstance(each, dict)]


_CARD_BYTES = 1 << 20
"""Bytes of a card, since YAML is read slowly; one that lists the features of a large data set has
some hundred thousand."""

_CARD_PARTS = 10**6
"""Values in a card, each alias counted as what it stands for."""


def _refuse_large(file: Path) -> None:
    size = file.stat().st_size
    if size > _CARD_BYTES:
        raise DataError(
            f"The card {file} has {size} bytes, and at most {_CARD_BYTES} are read. Remove it, or "
            "what it has beside the description of the data."
        )


def _refuse_bomb(content: Any, file: Path) -> None:  # noqa: ANN401 (any value of YAML)
    """Refuse values that are far more than they take: aliases of lists of aliases."""
    if _parts(content, {}) > _CARD_PARTS:
        raise DataError(
            f"The card {file} stands for over {_CARD_PARTS} values, or for itself, by aliases of "
            "YAML, which is how files look that are made to fill memories. Write it without *."
        )


def _parts(value: Any, known: dict[int, float]) -> float:  # noqa: ANN401 (any value of YAML)
    """Count the values that one stands for; without end, if it is a part of itself."""
    if not isinstance(value, dict | list):
        return 1.0
    if id(value) not in known:
        known[id(value)] = float("inf")  # while its parts are counted
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1.0 + sum(_parts(each, known) for each in parts)
    return known[id(value)]


def _texts_in(value: Any) -> list[str]:  # noqa: ANN401 (any value of YAML)
    """Return the texts of a value, each part once, however often an alias repeats it."""
    found, waiting, seen = [], [value], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict | list) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one
    return found


def _is_outside(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "://" in name or "::" in name or parts[0] in ("", "~") or ".." in parts
