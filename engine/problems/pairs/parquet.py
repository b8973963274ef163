"""Pairs of a Parquet file: a column of images, as bytes or as URLs, and a column of captions."""

import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from engine.errors import DataError, EngineError
from engine.extras import install
from engine.problems.data.bounded import check_size, open_parquet, python_size
from engine.problems.pairs.fetching import Fetching, NotFetchedError
from engine.problems.pairs.found import Found
from engine.problems.pairs.pictures import MAX_BYTES
from engine.storage.transient_errors import is_transient_while_parsing

_ROWS = 64
"""Rows that are in memory at a time."""


class _UnreadableError(Exception):
    """A cell holds what is no image or no caption; the text says why, as in "3 pairs <text>"."""


def read_parquet(stream: Any, path: str, found: Found, fetching: Fetching) -> None:  # noqa: ANN401 (a file of any library)
    """Read the pairs of a file.

    Args:
        stream: The file, which can be sought in.
        path: Its path.
        found: Takes the pairs.
        fetching: What may be fetched that cells name.

    Raises:
        DataError: If it is damaged, or a column is missing.
    """
    if find_spec("pyarrow") is None:
        raise DataError(
            f"{path} is Parquet, but the package pyarrow is not installed. "
            f"Run: {install('clip')}. Or use tar shards."
        )
    settings, file = found.settings, path.rsplit("/", 1)[-1]
    columns = [settings.image_column, settings.caption_column]
    for number, (image, caption) in enumerate(_rows(stream, path, columns)):
        name = f"{file}/{number}"
        try:
            text, others = _caption(caption)
            look = found.look(_image_bytes(image, fetching), None)
        except _UnreadableError as error:
            found.leave_out(name, str(error))
        except NotFetchedError as error:
            found.leave_out(name, str(error))
        else:
            if others:
                found.remark(name, "with several captions, of which the first counts")
            found.add(name, look, text)


def _rows(stream: Any, path: str, columns: list[str]) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 (as read_parquet)
    """Yield the cells of each row, which know their own values."""
    try:
        file = open_parquet(stream, path)
        _check_columns(file.schema_arrow.names, columns, path)
        size = stream.seek(0, io.SEEK_END)
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            check_size(sum(map(python_size, batch.columns)), size, path)
            yield from zip(*(batch.column(name) for name in columns), strict=True)
    except EngineError:
        raise
    except Exception as error:  # pyarrow raises OSErrors, ValueErrors and errors of its own
        if is_transient_while_parsing(error):
            raise
        raise DataError(
            f"{path} is not an intact Parquet file ({error}). Load it again, or take it away."
        ) from error


def _check_columns(names: list[str], columns: list[str], path: str) -> None:
    for name in columns:
        if names.count(name) != 1:
            many = "no column" if name not in names else "several columns"
            raise DataError(
                f"{path} has {many} {name!r}, but {', '.join(map(str, names))}"
                ". Set arguments.contrastive.image_column and arguments.contrastive.caption_column."
            )


def _value(cell: Any) -> Any:  # noqa: ANN401 (a scalar of pyarrow, and what it holds)
    try:
        return cell.as_py()
    except (ValueError, OverflowError) as error:  # a text that is no UTF-8
        raise _UnreadableError("with a cell that is damaged") from error


def _caption(cell: Any) -> tuple[str | bytes | None, bool]:  # noqa: ANN401 (a scalar of pyarrow)
    """Return the caption of a cell, the first of a list, and whether there are others."""
    value = _value(cell)
    several = isinstance(value, list)
    texts = [each for each in value if each] if isinstance(value, list) else [value]
    first = texts[0] if texts else None
    if isinstance(first, dict):  # as COCO's sentences are written
        first = next((first[key] for key in ("raw", "caption", "text") if first.get(key)), None)
    if not isinstance(first, str | bytes | None):
        raise _UnreadableError("with a caption that is no text")
    return first, several and len(texts) > 1


def _image_bytes(cell: Any, fetching: Fetching) -> bytes:  # noqa: ANN401 (a scalar of pyarrow)
    """Return the bytes of an image; none where there is no image."""
    value = _value(cell)
    if isinstance(value, dict):  # as the package datasets writes images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return fetching.fetch(value)
    if isinstance(value, list):
        if len(value) > MAX_BYTES or not all(
            isinstance(byte, int) and 0 <= byte < 256 for byte in value
        ):
            raise _UnreadableError("with an image of numbers that are no bytes of a picture file")
        return bytes(value)
    if value is not None and not isinstance(value, bytes):
        raise _UnreadableError(f"with an image of the type {type(value).__name__}")
    return value or b""
