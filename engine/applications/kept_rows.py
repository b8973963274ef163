"""Rows of the tables that a run leaves beside its report, as CSV and as Parquet."""

from typing import Any

from engine.errors import CheckpointCorruptError, EngineError
from engine.problems.bounded import parquet_columns
from engine.reports.frames import read_csv


def rows_of(content: bytes, url: str) -> list[dict[str, Any]]:
    """Return the rows of a file, each a value by column.

    Args:
        content: The whole file; the store may hold anything there.
        url: Where it is; what ends in ``csv`` is CSV, anything else Parquet.

    Raises:
        CheckpointCorruptError: If it is no such table.
        DataError: If it unpacks to far more than honest files do.
    """
    try:
        if url.endswith("csv"):
            return read_csv(content.decode())
        columns = parquet_columns(content, url)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    except EngineError:
        raise
    except Exception as error:  # of pyarrow, and of texts that are none
        raise CheckpointCorruptError(
            f"{url} is not what a run leaves there ({type(error).__name__}). Delete it, and let "
            "the run write it again with `mgd resume`."
        ) from error
