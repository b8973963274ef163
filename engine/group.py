"""A zarr v3 group of rows that describes itself: one 2-D array for each vector of a state.

::

    <url>/zarr.json                     what the rows are: layout, number of rows, attributes
    <url>/<vector>/zarr.json            shape (num_rows, P), chunks of one row and some 32 MB
    <url>/<vector>/c/<row>/<part>       the numbers, followed by their crc32c
    <url>/committed/<row>/zarr.json     written last; see ``engine.store``

zarr is atomic for each of these files and for no two of them. Creating a group therefore writes
the root first and what is missing afterwards, the same bytes whoever writes them, so that any
number of workers may create it at once. A missing chunk reads as NaN, never as zeros.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.errors import ContainsArrayError, ContainsGroupError, NodeNotFoundError
from zarr.storage import FsspecStore, LocalStore

from engine.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointMissingError,
    ConfigurationError,
)
from engine.location import filesystem, is_local

COMMITTED = "committed"

_CHUNK_BYTES = 32 << 20
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
        """Read the root's attributes; raises KeyError, TypeError or ValueError on garbage."""
        layout = {
            name: (int(entry["size"]), _DTYPES[entry["dtype"]])
            for name, entry in content["layout"].items()
        }
        return cls(layout, int(content["num_rows"]), dict(content["attributes"]))

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads."""
        layout = {
            name: {"size": size, "dtype": str(dtype).removeprefix("torch.")}
            for name, (size, dtype) in self.layout.items()
        }
        return {"num_rows": self.num_rows, "layout": layout, "attributes": self.attributes}


def open_zarr(url: str, options: dict[str, Any] | None) -> Store:
    """Return zarr's store for a location: files are renamed into place, objects put whole."""
    file_system, path = filesystem(url, options)
    if is_local(file_system):
        return LocalStore(path)
    return FsspecStore.from_url(
        url, storage_options={"use_listings_cache": False, **(options or {})}
    )


def create_group(url: str, store: Store, description: Description) -> None:
    """Write the root and the arrays, as far as they are not there yet.

    Raises:
        CheckpointMismatchError: If the root is there and says something else.
        CheckpointCorruptError: If something that is there cannot be read.
    """
    with suppress(ContainsGroupError), parsing(url, "the description of the group"):
        zarr.create_group(store, attributes=description.to_json(), zarr_format=3)
    found = read_description(url, store)
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
                chunks=(1, _chunk_length(size, dtype)),
                dtype=str(dtype).removeprefix("torch."),
                fill_value=float("nan"),
                compressors=[Crc32cCodec()],
                zarr_format=3,
            )


def read_description(url: str, store: Store) -> Description:
    """Read the root of a group.

    Raises:
        CheckpointMissingError: If there is no group.
        CheckpointCorruptError: If its description cannot be read.
    """
    try:
        with parsing(url, "the description of the group"):
            root = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
            return Description.from_json(root.attrs.asdict())
    except FileNotFoundError as error:
        raise CheckpointMissingError(
            f"There are no states at {url}. Run the stage that writes them first, or check --store."
        ) from error


def open_array(url: str, store: Store, name: str, description: Description) -> zarr.Array[Any]:
    """Open the array of one vector.

    Raises:
        CheckpointCorruptError: If it is missing, cannot be read, or has another shape or dtype
            than the root says.
    """
    size, dtype = description.layout[name]
    expected = ((description.num_rows, size), str(dtype).removeprefix("torch."))
    with parsing(url, f"the description of vector {name!r}"):
        try:
            array = zarr.open_array(store, path=name, mode="r+", zarr_format=3)
        except NodeNotFoundError as error:
            raise ValueError("it is missing") from error
        if (array.shape, str(array.dtype)) != expected:
            raise ValueError(f"it says {(array.shape, str(array.dtype))}, the root {expected}")
    # A chunk that is all NaN is written too, so that a missing one always means a loss.
    return array.with_config({"write_empty_chunks": True})


_ON_GARBAGE = (ValueError, LookupError, TypeError, AttributeError, NotImplementedError)
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
    except (OSError, ContainsGroupError, ContainsArrayError):
        raise
    except _ON_GARBAGE as error:
        raise CheckpointCorruptError(
            f"The store at {url} is damaged: {what} cannot be used: {error}. "
            "Delete the store, and run the stage that wrote it again."
        ) from error


def _chunk_length(size: int, dtype: torch.dtype) -> int:
    """Split a row evenly, for zarr pads the last chunk to the length of the others."""
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
