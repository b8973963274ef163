"""A zarr v3 group of rows that describes itself: one 2-D array for each vector of a state.

::

    <url>/zarr.json                     what the rows are: layout, number of rows, attributes
    <url>/<vector>/zarr.json            shape (num_rows, P), chunks of one row and some 32 MB
    <url>/<vector>/c/<row>/<part>       the numbers, followed by their crc32c
    <url>/committed/<row>/zarr.json     written last; see ``engine.storage.states``

zarr is atomic for each of these files and for no two of them. Creating a group therefore writes
the root first and what is missing afterwards, the same bytes whoever writes them, so that any
number of workers may create it at once. A missing chunk reads as NaN, never as zeros.
"""

import errno
import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import ContainsArrayError, ContainsGroupError
from zarr.storage import FsspecStore, LocalStore, StorePath, WrapperStore

from engine.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointMissingError,
    ConfigurationError,
)
from engine.storage.location import filesystem, is_local, join
from engine.storage.records import SMALL, read_record

COMMITTED = "committed"

_CHUNK_BYTES = 32 << 20
_LARGEST_FILE = 2 * _CHUNK_BYTES
_MOST = 1 << 40  # rows, and elements of a row
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Description:
    """What the rows of a group are; two groups with equal descriptions hold the same trajectory.

    Attributes:
        layout: Name of each vector to its length and dtype, in the order of the state.
        num_rows: Rows are numbered from 0 to ``num_rows - 1``.
        attributes: Whatever determines the numbers, as a JSON object.
    """

    layout: dict[str, tuple[int, torch.dtype]]
    num_rows: int
    attributes: dict[str, Any]

    @classmethod
    def checked(
        cls,
        layout: Mapping[str, tuple[int, torch.dtype]],
        num_rows: int,
        attributes: Mapping[str, Any],
    ) -> "Description":
        """Refuse what cannot be stored, and bring the attributes into their JSON form.

        Raises:
            ConfigurationError: If there is nothing to store, or something that cannot be.
        """
        if num_rows < 1 or not layout:
            raise ConfigurationError(
                f"A store needs at least one row and one vector, got num_rows={num_rows} and "
                f"the vectors {list(layout)}."
            )
        for name, (size, dtype) in layout.items():
            if not name.isidentifier() or name == COMMITTED:
                raise ConfigurationError(
                    f"A vector cannot be stored under the name {name!r}: it names a folder. "
                    f"Use letters, digits and underscores, and not {COMMITTED!r}."
                )
            if size < 1 or dtype not in _DTYPES.values():
                raise ConfigurationError(
                    f"Vector {name!r} of {size} elements of {dtype} cannot be stored. "
                    "Store at least one element of torch.float32 or torch.float64."
                )
        try:
            content = json.loads(json.dumps(dict(attributes), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The attributes {dict(attributes)} have no JSON form: {error}. "
                "Describe a trajectory by finite numbers, strings, lists and objects."
            ) from error
        return cls(dict(layout), num_rows, content)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Description":
        """Read the root's attributes; raises KeyError, TypeError or ValueError on garbage.

        Names are checked like those that are stored: they become folders.
        """
        layout = {
            name: (_counted(entry["size"]), _DTYPES[entry["dtype"]])
            for name, entry in content["layout"].items()
        }
        return cls.checked(layout, _counted(content["num_rows"]), dict(content["attributes"]))

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``from_json`` reads."""
        layout = {
            name: {"size": size, "dtype": str(dtype).removeprefix("torch.")}
            for name, (size, dtype) in self.layout.items()
        }
        return {"num_rows": self.num_rows, "layout": layout, "attributes": self.attributes}


def open_zarr(url: str, options: dict[str, Any] | None) -> Store:
    """Return zarr's store for a location: files are renamed into place, objects put whole."""
    file_system, path = filesystem(url, options)
    if is_local(file_system):
        return Bounded(LocalStore(path))
    return Bounded(
        FsspecStore.from_url(url, storage_options={"use_listings_cache": False, **(options or {})})
    )


class Bounded(WrapperStore[Store]):
    """A store of which no file is read that is larger than any of ours: it may be anything."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a part of a file, or the whole; raises ValueError if that is too much."""
        if byte_range is not None:
            return await self._store.get(key, prototype, byte_range)
        if isinstance(self._store, LocalStore):
            _refuse_pipe(self._store.root / key)
        found = await self._store.get(key, prototype, RangeByteRequest(0, _LARGEST_FILE + 1))
        if found is not None and len(found) > _LARGEST_FILE:
            raise ValueError(f"{key} has more than {_LARGEST_FILE} bytes, and no chunk has")
        return found


def _refuse_pipe(path: Path) -> None:
    """Refuse what is no file: some of it would be waited for, for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        mode = 0
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is no file")


def create_group(
    url: str, store: Store, description: Description, options: dict[str, Any] | None = None
) -> None:
    """Write the root and the arrays, as far as they are not there yet.

    Raises:
        CheckpointMismatchError: If the root is there and says something else.
        CheckpointCorruptError: If something that is there cannot be read.
    """
    with suppress(ContainsGroupError), parsing(url, "the description of the group"):
        zarr.create_group(store, attributes=description.to_json(), zarr_format=3)
    found = read_description(url, options)
    if found != description:
        raise CheckpointMismatchError(
            f"The states at {url} belong to another trajectory: {_difference(found, description)}. "
            "Replaying them would give a wrong metagradient without any other sign. "
            "Use another --store, or the recipe that wrote this one."
        )
    for name, (size, dtype) in description.layout.items():
        with suppress(ContainsArrayError), parsing(url, f"the description of vector {name!r}"):
            zarr.create_array(
                store,
                name=name,
                shape=(description.num_rows, size),
                chunks=(1, chunk_length(size, dtype)),
                dtype=str(dtype).removeprefix("torch."),
                fill_value=float("nan"),
                compressors=[Crc32cCodec()],
                zarr_format=3,
            )


def read_description(url: str, options: dict[str, Any] | None) -> Description:
    """Read the root of a group.

    Raises:
        CheckpointMissingError: If there is no group.
        CheckpointCorruptError: If its description cannot be read.
    """
    try:
        with parsing(url, "the description of the group"):
            content = _read_node(url, "group", options)
            return Description.from_json(content["attributes"])
    except CheckpointMissingError as error:
        raise CheckpointMissingError(
            f"There are no states at {url}. Run the stage that writes them first, or check --store."
        ) from error


def open_array(
    url: str, store: Store, name: str, description: Description, options: dict[str, Any] | None
) -> zarr.Array[Any]:
    """Open the array of one vector.

    What is stored of it is compared with what ``create_group`` writes, and used for nothing else:
    a codec, a chunk or a shape of somebody's choice could take any time or memory.

    Raises:
        CheckpointCorruptError: If it is missing, cannot be read, or is not what the root implies.
    """
    size, dtype = description.layout[name]
    expected = _array_document(description.num_rows, size, dtype)
    with parsing(url, f"the description of vector {name!r}"):
        try:
            found = _read_node(join(url, name), "array", options)
        except CheckpointMissingError as error:
            raise ValueError("it is missing") from error
        given = _normal(found)
        wrong = [key for key in given if given[key] != expected.get(key)]
        wrong += [key for key in expected if key not in given]
        if wrong:
            raise ValueError(
                f"its {wrong[0]} is {str(given.get(wrong[0]))[:200]}, and by the root "
                f"{expected.get(wrong[0])}"
            )
        array = zarr.Array.from_dict(StorePath(store, name), expected)
    # A chunk that is all NaN is written too, so that a missing one always means a loss.
    return array.with_config({"write_empty_chunks": True})


def _array_document(num_rows: int, size: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return the document that ``create_group`` writes for an array, without empty fields."""
    chunk = [1, chunk_length(size, dtype)]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [num_rows, size],
        "data_type": str(dtype).removeprefix("torch."),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }


def _normal(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty, which versions of zarr write or do not."""
    content = {key: value for key, value in found.items() if value not in (None, {}, [])}
    content.pop("attributes", None)
    if isinstance(content.get("codecs"), list):
        content["codecs"] = [
            {key: value for key, value in codec.items() if value not in (None, {})}
            if isinstance(codec, dict)
            else codec
            for codec in content["codecs"]
        ]
    return content


def _read_node(
    url: str, node_type: Literal["group", "array"], options: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the document of a zarr node; raises ValueError if it is none of that type."""
    content = read_record(join(url, "zarr.json"), options, largest=SMALL)
    found = content.get("zarr_format"), content.get("node_type")
    if found != (3, node_type):
        raise ValueError(f"it is of the format and type {found}, and not {(3, node_type)}")
    return content


def _counted(value: Any) -> int:  # noqa: ANN401 (any JSON value)
    if type(value) is not int or not 1 <= value <= _MOST:
        raise ValueError(f"{str(value)[:40]} is no number of rows or elements")
    return value


_ON_GARBAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, NotImplementedError),
    RecursionError,
)
"""What zarr was seen to raise on flipped bytes of its JSON; see ``tests/faults/corruption.py``."""


@contextmanager
def parsing(url: str, what: str) -> Iterator[None]:
    """Turn what zarr raises on garbage into CheckpointCorruptError.

    zarr checks metadata in many places and with many exceptions. Those of the filesystem (a lost
    connection, a refused permission) say nothing about the content and pass, as does the answer
    that a node exists already.
    """
    try:
        yield
    except (CheckpointCorruptError, IsADirectoryError, NotADirectoryError) as error:
        raise _damaged(url, what, error.__cause__ or error) from error
    except (OSError, ContainsGroupError, ContainsArrayError):
        raise
    except _ON_GARBAGE as error:
        raise _damaged(url, what, error) from error


def _damaged(url: str, what: str, error: BaseException) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"The store at {url} is damaged: {what} cannot be used: {error}. "
        "Delete the store, and run the stage that wrote it again."
    )


def chunk_length(size: int, dtype: torch.dtype) -> int:
    """Return the elements of a chunk: rows are split evenly, for zarr pads the last chunk."""
    num_chunks = -(-size * dtype.itemsize // _CHUNK_BYTES)
    return -(-size // num_chunks)


def _difference(found: Description, given: Description) -> str:
    """Say what differs first, with both values."""
    if found.num_rows != given.num_rows:
        return f"it has {found.num_rows} rows, and this run {given.num_rows}"
    for kind in ("attributes", "layout"):
        theirs, ours = found.to_json()[kind], given.to_json()[kind]
        for name in sorted(theirs.keys() | ours.keys()):
            if (theirs.get(name), name in theirs) != (ours.get(name), name in ours):
                return (
                    f"{kind.removesuffix('s')} {name!r} is {theirs.get(name)!r} there, "
                    f"and {ours.get(name)!r} in this run"
                )
    return f"its vectors are in the order {list(found.layout)}, and here {list(given.layout)}"
