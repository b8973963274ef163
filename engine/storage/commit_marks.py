"""Commit marks: a row counts only when its mark is there, written after all of its numbers.

A mark is an empty zarr group whose attributes hold the fingerprint of each vector. It is one file,
``committed/<row>/zarr.json``, so it is there as a whole or not at all.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.errors import ContainsGroupError

from engine.errors import CheckpointCorruptError, CheckpointMissingError
from engine.storage.location import join
from engine.storage.records import SMALL, read_record
from engine.storage.zarr_group import COMMITTED, parsing


def mark_path(step: int) -> str:
    """Return where the mark of a row is, below the root of its store."""
    return f"{COMMITTED}/{step:08d}"


def marked_steps(files: Iterable[str]) -> list[int]:
    """Return the rows that have a mark, sorted, given the paths of all files below ``committed``.

    A folder alone is no mark: a write that was interrupted leaves one behind.
    """
    folders = [file.split("/")[-2] for file in files if file.endswith("/zarr.json")]
    return sorted(int(folder) for folder in folders if folder.isdigit())


def write_mark(url: str, store: Store, step: int, fingerprints: dict[str, str]) -> bool:
    """Commit a row; return False if it has a mark already, which then stays as it is.

    Raises:
        CheckpointCorruptError: If the folder of the marks is damaged.
    """
    content = {"step": step, "fingerprints": fingerprints}
    try:
        with parsing(url, f"the group {COMMITTED!r}"):
            zarr.create_group(store, path=mark_path(step), attributes=content, zarr_format=3)
    except ContainsGroupError:
        return False
    return True


def read_mark(
    url: str, step: int, names: Iterable[str], options: dict[str, Any] | None = None
) -> dict[str, str]:
    """Return the fingerprint of each of the named vectors of a row.

    Raises:
        CheckpointMissingError: If the row has no mark.
        CheckpointCorruptError: If its mark is garbage, or that of another row.
    """
    try:
        mark = read_record(join(url, mark_path(step), "zarr.json"), options, largest=SMALL)
    except CheckpointMissingError as error:
        raise CheckpointMissingError(
            f"Row {step} of {url} is not committed. Run the stage that writes it first."
        ) from error
    except CheckpointCorruptError as error:
        raise corrupt_row(
            url, step, f"its commit mark cannot be read: {error.__cause__ or error}"
        ) from error
    content = mark.get("attributes")
    content = content if isinstance(content, dict) else {}
    fingerprints = content.get("fingerprints")
    if content.get("step") != step or not isinstance(fingerprints, dict):
        raise corrupt_row(url, step, f"its commit mark says {str(mark)[:200]}")
    missing = [name for name in names if name not in fingerprints]
    if missing:
        raise corrupt_row(url, step, f"its commit mark has no fingerprint of {missing}")
    return {name: str(fingerprints[name]) for name in names}


@contextmanager
def told_damage(
    url: str, step: int, name: str, lacks: Callable[[int, str], str | None]
) -> Iterator[None]:
    """Say of a vector that cannot be read inside the block what is wrong with it.

    Args:
        url: Where the group is.
        step: Number of the row.
        name: The vector.
        lacks: Returns the first chunk of a vector that is not there.

    Raises:
        CheckpointCorruptError: If it cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        missing = lacks(step, name)
        raise corrupt_row(url, step, f"vector {name!r} lacks the chunk {missing}") from error
    except (ValueError, TypeError, IsADirectoryError, NotADirectoryError) as error:
        raise corrupt_row(url, step, f"vector {name!r} fails its checksum: {error}") from error


def corrupt_row(url: str, step: int, found: str) -> CheckpointCorruptError:
    """Return the error for a committed row that does not hold what was committed."""
    return CheckpointCorruptError(
        f"Row {step} of {url} is damaged: {found}. Run the stage that wrote it again, which "
        f"writes the row anew, or delete it: RowStore.open(url).delete({step})."
    )
