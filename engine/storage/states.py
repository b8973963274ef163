"""Stores of states: row t holds s_t, bit for bit, or there is an error that says why not.

``RowStore`` keeps rows in a zarr group (``engine.storage.zarr_group`` has its files),
``MemoryStates`` in memory. A row of a ``RowStore`` counts only when its commit mark is there
(``engine.storage.commit_marks``). This module does not know which rows are worth keeping, and
starts no threads of its own.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import zarr
from torch import Tensor

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.numerics.fingerprint import check_same_bits, fingerprint_of_parts, state_fingerprint
from engine.storage.checked_store import CheckedStore
from engine.storage.chunk_files import read_chunk, write_chunk
from engine.storage.commit_marks import (
    corrupt_row,
    mark_path,
    marked_steps,
    read_mark,
    told_damage,
    write_mark,
)
from engine.storage.location import absolute, filesystem, is_local, join
from engine.storage.objects import remove_below
from engine.storage.zarr_group import (
    COMMITTED,
    Description,
    create_group,
    open_array,
    open_zarr,
    read_description,
)
from engine.types import State

logger = logging.getLogger(__name__)


@runtime_checkable
class StateStore(Protocol):
    """Holds states by step number; what ``load`` returns is the caller's to change in place."""

    def save(self, step: int, state: State) -> None:
        """Store s_step; a second save of the same bits changes nothing.

        Raises:
            ReplayMismatchError: If the row is there with other bits.
        """
        ...

    def load(self, step: int) -> State:
        """Return s_step, in host memory unless the store says otherwise.

        Raises:
            CheckpointMissingError: If the row is not committed.
        """
        ...

    def delete(self, step: int) -> None:
        """Forget s_step; nothing happens if it is not there."""
        ...

    def __contains__(self, step: int) -> bool: ...

    def steps(self) -> list[int]:
        """Return the numbers of the committed rows, in increasing order."""
        ...


class MemoryStates:
    """A store in memory, for the states of a segment.

    Args:
        device: Where states are kept and returned; by default where each one comes from.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._states: dict[int, State] = {}

    def save(self, step: int, state: State) -> None:
        """See ``StateStore.save``; keeps a copy, since training goes on in the same memory."""
        moved = {
            name: vector.detach().to(self._device or vector.device, copy=True)
            for name, vector in state.items()
        }
        if step in self._states:
            check_same_bits(f"Row {step} in memory", self._states[step], moved)
        else:
            self._states[step] = moved

    def load(self, step: int) -> State:
        """See ``StateStore.load``."""
        if step not in self._states:
            raise CheckpointMissingError(
                f"Row {step} is not in memory, which holds {self.steps()}. "
                "The schedule must save a state before it loads it."
            )
        return {name: vector.clone() for name, vector in self._states[step].items()}

    def delete(self, step: int) -> None:
        """See ``StateStore.delete``."""
        self._states.pop(step, None)

    def __contains__(self, step: int) -> bool:
        return step in self._states

    def steps(self) -> list[int]:
        """See ``StateStore.steps``."""
        return sorted(self._states)


class RowStore:
    """The states of one trajectory in a zarr group; made by ``create`` or ``open``.

    Any number of processes may read; each row has one writer at a time.

    Attributes:
        url: Where the group is, a local path being absolute.
    """

    def __init__(
        self,
        url: str,
        options: dict[str, Any] | None = None,
        fingerprints: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        self.url = absolute(url)
        self._expected = fingerprints
        self._files, self._path = filesystem(self.url, options)
        self._zarr = open_zarr(self.url, options)
        self._options = options
        self._description = read_description(self.url, options)
        self._arrays = {
            name: open_array(self.url, self._zarr, name, self._description, options)
            for name in self._description.layout
        }

    @classmethod
    def create(
        cls,
        url: str,
        layout: Mapping[str, tuple[int, torch.dtype]],
        num_rows: int,
        *,
        attributes: Mapping[str, Any],
        options: dict[str, Any] | None = None,
    ) -> "RowStore":
        """Open the group of a trajectory, creating what is missing of it.

        Args:
            url: A local path or any fsspec URL; ``engine.storage.location`` says where credentials
                come from.
            layout: Name of each vector to its length and dtype.
            num_rows: Rows are numbered from 0 to ``num_rows - 1``.
            attributes: A JSON object with whatever determines the numbers of a row.
            options: fsspec storage options.

        Raises:
            CheckpointMismatchError: If the group there is that of another trajectory.
            ConfigurationError: If the layout cannot be stored.
        """
        description = Description.checked(layout, num_rows, attributes)
        create_group(absolute(url), open_zarr(absolute(url), options), description, options)
        return cls(url, options)

    @classmethod
    def open(
        cls,
        url: str,
        options: dict[str, Any] | None = None,
        *,
        fingerprints: Sequence[Mapping[str, str]] | None = None,
    ) -> "RowStore":
        """Open a group that exists, for reading and writing.

        Args:
            url: As for ``create``.
            options: fsspec storage options.
            fingerprints: Those of the vectors of each row, as they were noted elsewhere: a row that
                is whole, but another one, is then damaged too. By default those in the commit mark
                of the row are believed.

        Raises:
            CheckpointMissingError: If there is none.
            CheckpointCorruptError: If its metadata is damaged.
        """
        return cls(url, options, fingerprints)

    @property
    def attributes(self) -> dict[str, Any]:
        """What determines the numbers, as given to ``create``."""
        return dict(self._description.attributes)

    @property
    def layout(self) -> dict[str, tuple[int, torch.dtype]]:
        """Name of each vector to its length and dtype, in the order of a loaded state."""
        return dict(self._description.layout)

    @property
    def num_rows(self) -> int:
        """Number of rows, committed or not."""
        return self._description.num_rows

    def save(self, step: int, state: State, fingerprints: dict[str, str] | None = None) -> None:
        """See ``StateStore.save``; a row that is there is read back, and mended if damaged.

        Args:
            step: Number of the row.
            state: What it is to hold.
            fingerprints: Those of the state's vectors, if they are known already.

        Raises:
            ConfigurationError: If the state does not fit the layout, or the step the rows.
            ReplayMismatchError: If the row is there with other bits.
        """
        self._check_fits(step, state)
        if step in self:
            try:
                stored = self.load(step)
            except CheckpointCorruptError as error:
                logger.warning("Writing row %d again. %s", step, error)
                self.delete(step)
            else:
                check_same_bits(f"Row {step} of {self.url}", stored, state)
                return
        fingerprints = fingerprints or state_fingerprint(state)
        for name, array in self._arrays.items():
            self._write(step, name, array, state[name].detach().cpu().numpy())
        if not write_mark(self.url, self._zarr, step, fingerprints):
            # Another worker was faster, which is fine if it has the same bits.
            check_same_bits(f"Row {step} of {self.url}", self.load(step), state)

    def load(self, step: int) -> State:
        """Return s_step in host memory, after comparing it with its checksums and fingerprints.

        Raises:
            CheckpointMissingError: If the row is not committed.
            CheckpointCorruptError: If its bits are not those that were committed.
        """
        return self.verified(step)[0]

    def verified(self, step: int) -> tuple[State, dict[str, str]]:
        """Return s_step as ``load`` does, and the fingerprints of its vectors."""
        fingerprints = self._marked(step)
        state = {name: self._read(step, name, fingerprints[name]) for name in self._arrays}
        return state, fingerprints

    def arrays(self) -> "dict[str, zarr.Array[Any]]":
        """Return the arrays, shapes (rows, elements), which read a chunk when it is asked for.

        They are read-only. Of a row that is read for the first time, all is compared, as ``check``
        does; of fingerprints that ``open`` was given, the marks are compared at once.
        """
        for step in range(len(self._expected or ())):
            self._marked(step)
        lazy = CheckedStore(self._zarr.with_read_only(True), self.check)
        return {
            name: open_array(self.url, lazy, name, self._description, self._options)
            for name in self._arrays
        }

    def check(self, step: int, name: str) -> None:
        """Compare a vector of a row with its fingerprint, with one chunk in memory at a time.

        Raises:
            As ``load``.
        """
        expected, (size, dtype) = self._marked(step)[name], self._description.layout[name]
        self._check_parts(step, name)
        with told_damage(self.url, step, name, self._lacks):
            found = fingerprint_of_parts(dtype, size, self._parts(step, name))
        self._compare(step, name, found, expected)

    def delete(self, step: int) -> None:
        """Delete a row: its commit mark first, so that no half of it ever counts."""
        folders = [f"{name}/c/{step}" for name in self._arrays]
        for folder in (mark_path(step), *folders):
            remove_below(self._files, join(self._path, folder))

    def __contains__(self, step: int) -> bool:
        return self._files.exists(join(self._path, mark_path(step), "zarr.json"))

    def steps(self) -> list[int]:
        """See ``StateStore.steps``; one listing, whatever the number of rows."""
        return marked_steps(self._files.find(join(self._path, COMMITTED)))

    def _check_fits(self, step: int, state: State) -> None:
        if not 0 <= step < self.num_rows:
            raise ConfigurationError(
                f"Row {step} cannot be saved to {self.url}: its rows are 0 to {self.num_rows - 1}."
                " Create the store with more rows, one for each state."
            )
        if state.keys() != self._arrays.keys():
            raise ConfigurationError(
                f"A state with the vectors {sorted(state)} cannot be saved to {self.url}, which "
                f"holds {sorted(self._arrays)}. Use one store for each optimizer and model."
            )
        for name, (size, dtype) in self._description.layout.items():
            vector = state[name]
            if vector.shape != (size,) or vector.dtype != dtype:
                raise ConfigurationError(
                    f"Vector {name!r} of shape {tuple(vector.shape)} and {vector.dtype} cannot be "
                    f"saved to {self.url}, which holds shape {(size,)} and {dtype}. "
                    "Use one store for each optimizer and model."
                )

    def _marked(self, step: int) -> dict[str, str]:
        """Return the fingerprints in the mark of a row, if they are those that it should have."""
        found = read_mark(self.url, step, self._arrays, self._options)
        if self._expected is None:
            return found
        expected = dict(self._expected[step]) if step < len(self._expected) else {}
        if found != expected:
            raise corrupt_row(
                self.url,
                step,
                f"its commit mark says {str(found)[:200]}, and {str(expected)[:200]} was committed",
            )
        return found

    def _read(self, step: int, name: str, expected: str) -> Tensor:
        self._check_parts(step, name)
        with told_damage(self.url, step, name, self._lacks):
            vector = torch.from_numpy(self._numbers(step, name))
        self._compare(step, name, state_fingerprint({name: vector})[name], expected)
        return vector

    def _compare(self, step: int, name: str, found: str, expected: str) -> None:
        if found == expected:
            return
        missing = self._lacks(step, name)
        other = f"has the fingerprint {found}, and {expected[:64]} was committed"
        reason = f"lacks the chunk {missing}" if missing else other
        raise corrupt_row(self.url, step, f"vector {name!r} {reason}")

    def _numbers(self, step: int, name: str) -> np.ndarray:
        if not is_local(self._files):  # many chunks at once
            return self._arrays[name][step]  # pyright: ignore[reportReturnType] (a row is an array)
        parts = list(self._parts(step, name))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _parts(self, step: int, name: str) -> Iterator[np.ndarray]:
        """Yield the numbers of each chunk of a vector, without what fills up the last one."""
        array = self._arrays[name]
        length, width = array.shape[1], array.chunks[1]
        for part, chunk in enumerate(self._chunks(step, name)):
            first, stop = part * width, min((part + 1) * width, length)
            if is_local(self._files):
                yield read_chunk(join(self._path, chunk), width, array.dtype)[: stop - first]
            else:
                yield np.asarray(array[step, first:stop])

    def _write(self, step: int, name: str, array: "zarr.Array[Any]", row: np.ndarray) -> None:
        if not is_local(self._files):
            array[step] = row
            return
        width = array.chunks[1]
        for part, chunk in enumerate(self._chunks(step, name)):
            numbers = row[part * width : (part + 1) * width]
            if len(numbers) < width:  # of the last chunk, as zarr does
                numbers = np.append(numbers, np.full(width - len(numbers), np.nan, row.dtype))
            write_chunk(join(self._path, chunk), numbers)

    def _check_parts(self, step: int, name: str) -> None:
        """Refuse a row of which not every part is there, before memory is taken for the whole.

        A size is only what the store says. Up to one chunk it is harmless, and not looked after.
        """
        size, dtype = self._description.layout[name]
        width = self._arrays[name].chunks[1]
        if size == width:
            return
        if size * dtype.itemsize > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise corrupt_row(
                self.url, step, f"vector {name!r} has {size} elements, more than fit into memory"
            )
        missing = self._lacks(step, name)
        if missing:
            raise corrupt_row(self.url, step, f"vector {name!r} lacks the chunk {missing}")

    def _lacks(self, step: int, name: str) -> str | None:
        """Return the first chunk of a row that is not there, asked for by name."""
        for chunk in self._chunks(step, name):
            if not self._files.exists(join(self._path, chunk)):
                return chunk
        return None

    def _chunks(self, step: int, name: str) -> list[str]:
        """Return where the chunks of a vector lie, below the root."""
        length, width = self._arrays[name].shape[1], self._arrays[name].chunks[1]
        return [f"{name}/c/{step}/{part}" for part in range(-(-length // width))]
