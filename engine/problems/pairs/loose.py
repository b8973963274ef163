"""Pairs of loose files: pictures beside texts of the same name, or a table of captions.

A folder without shards holds ``a.jpg`` beside ``a.txt``, or a table such as ``captions.csv`` with a
column of the pictures' paths and one of their captions, as Flickr8k's and those of image folders of
``datasets`` are. Pictures may lie in subfolders. Files are read in the order of their paths, pairs
of a table in the order of its rows.
"""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from engine.errors import DataError
from engine.problems.pairs.found import Found, Place
from engine.problems.pairs.pictures import MAX_BYTES
from engine.problems.pairs.tars import CAPTION, IMAGES
from engine.problems.tables.dialect import check_quotes, found_separator
from engine.storage.content import decoded
from engine.storage.listing import File, list_data, relative_paths
from engine.storage.location import filesystem

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
        others: What is no part of a pair: kind to the paths.
    """

    file_system: Any
    pictures: dict[str, File]
    texts: dict[str, File]
    table: File | None
    others: dict[str, list[str]]


def list_loose(file_system: Any, url: str) -> Loose:  # noqa: ANN401 (fsspec has no types)
    """Return the loose files below a folder."""
    data, root = list_data(url), f"{filesystem(url)[1].rstrip('/')}/"
    listed = dict(sorted(relative_paths(url, data.files).items()))
    hidden = [
        path
        for path in listed
        if any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
    ]
    files = {path: file for path, file in listed.items() if path not in set(hidden)}
    named = next((name for name in TABLES if name in files), None)
    table = None if named is None else files.pop(named)
    pictures = {path: file for path, file in files.items() if _ending(path) in IMAGES}
    texts = {path: file for path, file in files.items() if _ending(path) == CAPTION}
    # A data set of the Internet may hold links, and a caption is shown to whoever reads the report.
    away = [path for path, file in texts.items() if file.path in data.linked]
    texts = {path: file for path, file in texts.items() if file.path not in data.linked}
    others = {
        "files that are neither pictures nor captions": [
            path for path in files if path not in pictures and _ending(path) != CAPTION
        ],
        "hidden files": hidden,
        "texts that are links out of the folder": away,
        "pipes, devices or links that lead to no file": [
            path.removeprefix(root) for path in data.others
        ],
    }
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
    for kind, paths in loose.others.items():
        for path in paths:
            found.pass_over(path, kind)
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
    texts: dict[str, list[str]] = {}
    for path in loose.texts:
        texts.setdefault(_stem(path), []).append(path)
    for stem, paths in texts.items():
        if stem not in named:
            found.leave_out(paths[0], "without an image")
    pairs: list[tuple[str, str | File]] = []
    for stem, pictures in named.items():
        if len(pictures) > 1:
            found.leave_out(stem, "with several images")
        elif len(texts.get(stem, ())) > 1:
            found.leave_out(pictures[0], "with several captions")
        else:
            text = texts.get(stem)
            pairs.append((pictures[0], "" if text is None else loose.texts[text[0]]))
    return pairs


def _of_table(loose: Loose, table: File, found: Found) -> list[tuple[str, str | File]]:
    """Return pictures with the captions of a table."""
    pairs: dict[str, str] = {}
    # A name with an accent is written in one way by macOS and in another elsewhere.
    forms = {unicodedata.normalize("NFC", path): path for path in loose.pictures}
    for written, caption in _rows(loose, table, found):
        path = written
        if path not in loose.pictures:
            path = forms.get(unicodedata.normalize("NFC", path), path)
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
    separator = found_separator(text)
    check_quotes(text, separator, table.path)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns = rows.fieldnames or []
        picture = _column(columns, (found.settings.image_column, *_PICTURE_COLUMNS), table.path)
        caption = _column(columns, (found.settings.caption_column, *_CAPTION_COLUMNS), table.path)
        for row in rows:
            path = str(row[picture] or "").strip().removeprefix("./").replace("\\", "/")
            if None in row:  # a comma that stands in no quotation marks has cut the caption
                found.leave_out(path, f"in a row of {name} with more cells than columns")
            else:
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
