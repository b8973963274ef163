"""Rows that a run keeps: of the tables beside its report, as CSV and as Parquet, and of stages."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import CheckpointCorruptError, EngineError
from engine.problems.data.bounded import parquet_columns
from engine.reports.data_frames import read_csv

if TYPE_CHECKING:  # whoever only shows runs loads no torch
    from torch import Tensor

    from engine.stages.references import Ref


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


def only_row(store: str, ref: "Ref", is_wanted: Callable[[str], bool]) -> "Tensor":
    """Return the only row of a stage with the given name, verified.

    Raises:
        CheckpointCorruptError: If there is none, or more than one.
        StoreError: If it is not there.
    """
    from engine.stages.commits import read_rows

    rows = read_rows(store, ref)
    found = [row for name, row in rows.items() if is_wanted(name)]
    if len(found) != 1:
        raise CheckpointCorruptError(
            f"Stage {ref.stage} {ref.key} holds {', '.join(rows)}, but not the row that a run "
            "reads there. Something in the store was changed from outside: do not use this store."
        )
    return found[0]
