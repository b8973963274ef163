"""Passages read from files of JSON and plain texts. Nothing here knows tokens or tensors."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from engine.errors import DataError
from engine.problems.passage import Passage
from engine.problems.texts.json_lines import check_characters, holds_json, read_json, stem
from engine.recipes.arguments.text import Passages, TextSettings
from engine.secret_urls import beginning
from engine.storage.content import decoded, unpacked
from engine.storage.reading import read_data

FORTUNES = "/usr/share/games/fortunes"
"""Where Debian's packages ``fortunes``, ``fortunes-de`` and others put their files."""


def locate(path: str, folder: str | None) -> str:
    """Return the URL of a file, which is in ``folder`` unless its path is absolute."""
    if folder is None or "://" in path or path.startswith("/"):
        return path
    return f"{folder.rstrip('/')}/{path}"


def read_sources(settings: TextSettings, folder: str | None) -> tuple[list[Passage], list[Passage]]:
    """Read the candidates of all sources, and the passages of the task, each text once.

    Returns:
        The candidates, file by file, and the task's passages. Where the task is one of the
        sources, its passages are in both; where none is named, it is all sources.

    Raises:
        DataError: If a file cannot be read or holds no passage, or a line of it is damaged.
    """
    names = _names([locate(path, folder) for path in settings.sources])
    read = {url: _distinct(read_passages(url, name, settings)) for url, name in names.items()}
    pool = [passage for passages in read.values() for passage in passages]
    if settings.target is None:
        return pool, _distinct(pool)
    url = locate(settings.target, folder)
    return pool, read.get(url) or read_own(url, "target", settings)


def read_own(url: str, name: str, settings: TextSettings) -> list[Passage]:
    """Read the file of a split, each text once; see ``read_passages``.

    Args:
        url: The file.
        name: Name of the split, for passages that name no source.
        settings: How plain text is cut.
    """
    return _distinct(read_passages(url, name, settings))


def read_passages(url: str, source: str, settings: TextSettings) -> list[Passage]:
    """Read one file; what is in it is seen by its content, not by its name.

    Args:
        url: Path or fsspec URL; what is compressed is unpacked.
        source: Name of the corpus, for passages that name none.
        settings: How plain text is cut.

    Raises:
        DataError: If the file cannot be read, holds no passage, or a line of it is damaged.
    """
    text = _read(url)
    if holds_json(text, url):
        found = [
            _parse(value, Passage("", "", source, url, line))
            for line, value in read_json(text, url)
        ]
    else:
        _refuse_table(text, url)
        found = [
            Passage("", piece, source, url, number)
            for number, piece in _cut(text, settings.passages)
        ]
    if not found:
        raise DataError(
            f"{url} holds no passage, so there is nothing to learn from it. Remove it from the "
            "recipe, or point at a file with text."
        )
    return found


def _refuse_table(text: str, url: str) -> None:
    """Refuse a table whose columns are fields of examples, which would be learned as lines."""
    heading = text.lstrip().split("\n", maxsplit=1)[0].lower()
    for separator, kind in ((",", "CSV"), ("\t", "TSV"), (";", "CSV")):
        columns = {name.strip("\"' ") for name in heading.split(separator)}
        if {"prompt", "completion"} <= columns:
            raise DataError(
                f"{url} looks like a table ({kind}) with the columns prompt and completion, and "
                "would be learned line by line, commas and all. Write it as JSONL: one object with "
                "prompt and completion on each line."
            )


def _names(urls: list[str]) -> dict[str, str]:
    """Name each file by its stem, or by its whole path where that names two."""
    stems = [stem(url) for url in urls]
    return {
        url: stem if stems.count(stem) == 1 else url for url, stem in zip(urls, stems, strict=True)
    }


def _distinct(passages: list[Passage]) -> list[Passage]:
    """Keep the first of equal texts: an example twice in a task would be in two of its splits."""
    return list({passage.text: passage for passage in reversed(passages)}.values())[::-1]


def _read(url: str) -> str:
    """Return a file's text, its lines ended by one line feed, whatever ended them."""
    hint = (
        "Install Debian's packages fortunes, fortunes-de, fortunes-it, fortunes-es and "
        "fortunes-cs, or set arguments.url to a folder that holds this file."
        if url.startswith(FORTUNES)
        else "Correct the path in arguments.sources, target, objective, validation or test, or "
        "arguments.url."
    )
    content = read_data(f"The text {url}", url, hint)
    text = decoded(unpacked(content, url), url)
    # Texts that were put together have a mark of byte order at the head of each part.
    ended = re.sub(r"\r+\n?", lambda end: "\n" if end[0][-1] == "\n" else "\n" * len(end[0]), text)
    return ended.replace("\n\ufeff", "\n")


def _cut(text: str, passages: Passages) -> Iterator[tuple[int, str]]:
    """Yield the passages of a plain text with the line on which each begins."""
    lines = list(enumerate(text.split("\n"), start=1))
    if passages is Passages.LINE:
        pieces = [[each] for each in lines]
    else:
        separator = "%" if passages is Passages.FORTUNE else ""
        groups = groupby(lines, key=lambda each: each[1].strip() == separator)
        pieces = [list(group) for ends, group in groups if not ends]
    for piece in pieces:
        filled = [number for number, line in piece if line.strip()]
        if filled:
            yield filled[0], "\n".join(line for _, line in piece).strip()


def _parse(content: Any, passage: Passage) -> Passage:  # noqa: ANN401 (a JSON value)
    """Read one example; ``passage`` says where it stands and how its source is called."""
    place = f"Line {passage.line} of {passage.file}"
    if not isinstance(content, dict):
        raise DataError(
            f"{place} is {type(content).__name__}, but an example is an "
            "object with text, or with prompt and completion. Write it as one."
        )
    if "text" in content and not {"prompt", "completion"} & content.keys():
        if not isinstance(content["text"], str) or not content["text"].strip():
            raise DataError(f"{place} has no text as its 'text'. Remove the line, or correct it.")
        content = {**content, "prompt": "", "completion": content["text"]}  # a plain passage
    for name in ("prompt", "completion"):
        if not isinstance(content.get(name), str):
            reason = "has no" if name not in content else "has no text as its"
            raise DataError(
                f"{place} {reason} {name!r}. An example has the field text, or prompt "
                f"(may be empty) and completion, and perhaps source: add it.{_fields(content)}"
            )
    source = content.get("source", passage.source)
    if not isinstance(source, str) or not source:
        raise DataError(
            f"{place} has {source!r} as its source, which is no name. Give "
            "it a name, or leave it out."
        )
    for name, text in (("prompt", content["prompt"]), ("completion", content["completion"])):
        check_characters(text, name, place)
    check_characters(source, "source", place)
    if not content["completion"].strip():
        raise DataError(
            f"{place} has an empty completion, and only completions are learned. Remove the line."
        )
    return replace(
        passage, prompt=content["prompt"], completion=content["completion"], source=source
    )


def _fields(content: dict[str, Any]) -> str:
    names = [beginning(name, 40) for name in content][:8]
    return f" It has {', '.join(map(repr, names))}." if names else " It has no field at all."
