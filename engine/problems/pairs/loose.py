"""Pairs of loose files: pictures beside texts of the same name, or a table of captions.

A folder without shards holds ``a.jpg`` beside ``a.txt``, or a table such as ``captions.csv`` with a
column of the pictures' paths and one of their captions, as Flickr8k's and those of image folders of
``datasets`` are. Pictures may lie in subfolders. Files are read in the order of their paths, pairs
of a table in the order of its rows.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from engine.errors import DataError
from engine.problems.pairs.found import Found, Place
from engine.problems.pairs.pictures import MAX_BYTES
from engine.problems.pairs.tars import CAPTION, IMAGES
from engine.storage.content import decoded
from engine.storage.listing import File, list_tree, relative_paths

TABLES = ("captions.csv", "captions.tsv", "captions.txt", "metadata.csv")
"""What a table of captions is called; the first that is there counts."""

_PICTURE_COLUMNS, _CAPTION_COLUMNS = ("file_name", "file", "image"), ("text", "caption")
"""Names of columns that are tried after those of the settings."""

_AT_ONCE = 64
"""Files that are read in one go."""


@dataclass(frozen=True)
class Loose:
    """The files of a folder, by their paths in it.

    Attributes:
        file_system: Where they are.
        pictures: Those with the ending of a picture.
        texts: Those with the ending of a text, but for the table.
        table: The table of captions, if there is one.
        others: All else, but for what is hidden.
    """

    file_system: Any
    pictures: dict[str, File]
    texts: dict[str, File]
    table: File | None
    others: list[str]


def list_loose(file_system: Any, url: str) -> Loose:  # noqa: ANN401 (fsspec has no types)
    """Return the loose files below a folder."""
    files = {
        path: file
        for path, file in sorted(relative_paths(url, list_tree(url)).items())
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
    }
    named = next((name for name in TABLES if name in files), None)
    table = None if named is None else files.pop(named)
    pictures = {path: file for path, file in files.items() if _ending(path) in IMAGES}
    texts = {path: file for path, file in files.items() if _ending(path) == CAPTION}
    others = [path for path in files if path not in pictures and path not in texts]
    return Loose(file_system, pictures, texts, table, others)


def read_loose(loose: Loose, found: Found, *, keep: bool) -> None:
    """Read the pairs of loose files.

    Args:
        loose: The files.
        found: Takes the pairs.
        keep: Keep the images; otherwise their places.

    Raises:
        DataError: If the table is damaged, or lacks a column.
    """
    for path in loose.others:
        found.pass_over(path, "files that are neither pictures nor captions")
    if loose.table is None:
        pairs = _of_one_name(loose, found)
    else:
        pairs = _of_table(loose, loose.table, found)
    for start in range(0, len(pairs), _AT_ONCE):
        _read(loose, pairs[start : start + _AT_ONCE], found, keep=keep)


def _read(loose: Loose, pairs: list[tuple[str, str | File]], found: Found, *, keep: bool) -> None:
    """Read some pairs: a picture, and its caption or the file that holds it."""
    wanted = [loose.pictures[path] for path, _ in pairs]
    wanted += [caption for _, caption in pairs if isinstance(caption, File)]
    readable = [file for file in wanted if file.bytes <= MAX_BYTES]
    contents = dict(zip((file.path for file in readable), _cat(loose, readable), strict=True))
    for path, caption in pairs:
        file = loose.pictures[path]
        text = contents.get(caption.path) if isinstance(caption, File) else caption
        if file.path not in contents:
            found.leave_out(path, "with an image that is stored too large")
        else:
            place = None if keep else Place(file.path, 0, file.bytes)
            found.add(path, found.look(contents[file.path], place), text)


def _cat(loose: Loose, files: list[File]) -> list[bytes]:
    paths, sizes = [file.path for file in files], [file.bytes for file in files]
    full = [path for path, size in zip(paths, sizes, strict=True) if size]  # no range of nothing
    starts, ends = [0] * len(full), [size for size in sizes if size]
    read = loose.file_system.cat_ranges(full, starts, ends, on_error="raise") if full else []
    contents = dict(zip(full, read, strict=True))
    return [contents.get(path, b"") for path in paths]


def _of_one_name(loose: Loose, found: Found) -> list[tuple[str, str | File]]:
    """Return pictures with the text of the same name in the same folder."""
    named: dict[str, list[str]] = {}
    for path in loose.pictures:
        named.setdefault(_stem(path), []).append(path)
    texts = {_stem(path): path for path in loose.texts}
    for stem, path in texts.items():
        if stem not in named:
            found.leave_out(path, "without an image")
    pairs: list[tuple[str, str | File]] = []
    for stem, pictures in named.items():
        if len(pictures) > 1:
            found.leave_out(stem, "with several images")
        else:
            text = texts.get(stem)
            pairs.append((pictures[0], "" if text is None else loose.texts[text]))
    return pairs


def _of_table(loose: Loose, table: File, found: Found) -> list[tuple[str, str | File]]:
    """Return pictures with the captions of a table."""
    pairs: dict[str, str] = {}
    for path, caption in _rows(loose, table, found):
        if path not in loose.pictures:
            found.leave_out(path or "a row without a path", "without an image")
        elif path in pairs:
            found.remark(path, "with several captions, of which the first counts")
        else:
            pairs[path] = caption
    name = table.path.rsplit("/", 1)[-1]
    for path in loose.pictures:
        if path not in pairs:
            found.pass_over(path, f"pictures that {name} does not name")
    for path in loose.texts:
        found.pass_over(path, f"texts beside {name}")
    return list(pairs.items())


def _rows(loose: Loose, table: File, found: Found) -> Iterator[tuple[str, str]]:
    """Yield the path and the caption of each row."""
    name = table.path.rsplit("/", 1)[-1]
    if table.bytes > MAX_BYTES:
        raise DataError(
            f"{table.path} has {table.bytes} bytes, which is more than a table of captions has. "
            "Write the pairs as Parquet, or as tar shards."
        )
    text = decoded(loose.file_system.cat_file(table.path), table.path).removeprefix("\ufeff")
    rows = csv.DictReader(
        io.StringIO(text, newline=""), delimiter="\t" if name.endswith(".tsv") else ","
    )
    try:
        columns = rows.fieldnames or []
        picture = _column(columns, (found.config.image_column, *_PICTURE_COLUMNS), table.path)
        caption = _column(columns, (found.config.caption_column, *_CAPTION_COLUMNS), table.path)
        for row in rows:
            path = str(row[picture] or "").strip().removeprefix("./").replace("\\", "/")
            yield path, row[caption] or ""
    except csv.Error as error:
        raise DataError(
            f"{table.path} is not an intact table ({error}). Write it as CSV, with a text that has "
            "commas in quotation marks."
        ) from error


def _column(columns: Sequence[str], tried: tuple[str, ...], path: str) -> str:
    names = list(columns)
    for name in tried:
        if names.count(name) == 1:
            return name
    wanted, there = " or ".join(dict.fromkeys(tried)), ", ".join(names) or "none"
    raise DataError(
        f"{path} has no column {wanted}, but {there}. Set arguments.contrastive.image_column and "
        "arguments.contrastive.caption_column."
    )


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.removeprefix(".").lower()


def _stem(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)
