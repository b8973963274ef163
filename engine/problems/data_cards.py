"""What a data set says of its own files: none of them may be somewhere else.

A folder of the package ``datasets`` has a card in YAML that may name any URL or path as files of
the data set, and the library would open them: whoever made the data set would choose what this
machine connects to, and what of it is read. One that ``save_to_disk`` has written names its splits
and its files in JSON, as paths that the library joins as they are.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from engine.errors import DataError


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
    for split in ["", *(each for each in splits if not _is_outside(each))]:
        names = _texts_in(_document(folder / split / "state.json").get("_data_files"))
        outside = next((each for each in [*splits, *names] if _is_outside(each)), None)
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
    """Return what the card of a folder says of its files, as the library will read it."""
    found: Any = []
    if (folder / "README.md").is_file():
        card = import_module("huggingface_hub").DatasetCard.load(folder / "README.md")
        found = card.data.to_dict().get("configs")
    if (folder / ".huggingface.yaml").is_file():
        content = yaml.safe_load((folder / ".huggingface.yaml").read_text(encoding="utf-8"))
        found = content.get("configs", found) if isinstance(content, dict) else found
    return [each for each in found or [] if isinstance(each, dict)]


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
