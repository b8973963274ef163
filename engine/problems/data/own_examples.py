"""Examples of any kind as the splits of a problem."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from engine.errors import ConfigurationError, DataError
from engine.problems.data.splits import Examples, check_examples
from engine.routine.examples import Batches, Columns, examples_from
from engine.routine.outputs import batches_of
from engine.types import Batch

_CHUNK = 256
"""Samples of a data set by index that are read at a time for its fingerprint."""


@dataclass(frozen=True, eq=False, init=False)
class OwnExamples(Examples):
    """Examples that are not a pair of tensors: a dict, more columns, or a data set by index.

    Attributes:
        source: What ``Routine`` reads, see ``engine.routine.examples``.
        dtype: Number format of whatever has a floating point.
    """

    source: Any
    dtype: torch.dtype

    def __init__(self, source: Any, dtype: torch.dtype) -> None:  # noqa: ANN401 (as above)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "dtype", dtype)

    @property
    def inputs(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride] (refused)
        """There are none by themselves: refused."""
        raise _not_columns("inputs")

    @property
    def labels(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride] (refused)
        """There are none by themselves: refused."""
        raise _not_columns("labels")

    @property
    def one_label_each(self) -> None:
        """None: nobody here knows which of a batch's parts is a label."""
        return

    def __len__(self) -> int:
        return len(tree_leaves(self.source)[0] if isinstance(self.source, tuple) else self.source)

    def to(self, device: torch.device) -> "OwnExamples":
        """Return the same examples: batches go to a device, see ``batches``."""
        del device
        return self

    def batches(self, device: torch.device) -> Any:  # noqa: ANN401 (as Routine.examples)
        """Return the examples as a routine reads them, on a device and in the run's format."""
        if isinstance(self.source, Tensor | tuple):
            return tree_map(lambda column: _placed(column, self.dtype, device), self.source)
        return Placed(self.source, self.dtype, device)

    def first(self, number: int) -> "OwnExamples":
        """Return the first ones."""
        return self.at(torch.arange(number))

    def at(self, indices: Tensor) -> "OwnExamples":
        """Return some of them, in the order of the indices."""
        return _chosen(self, indices)


@dataclass(frozen=True, eq=False)
class Placed(Batches):
    """A maker of batches whose numbers get the run's format, and go to its device."""

    source: Any
    dtype: torch.dtype
    device: torch.device

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch = self.source[indices]
        return tree_map(lambda leaf: _placed(leaf, self.dtype, self.device), batch)

    def first(self, number: int) -> "Placed":
        """Return the first examples, for twins of a run."""
        return Placed(Some(self.source, torch.arange(number)), self.dtype, self.device)


@dataclass(frozen=True, eq=False)
class Some(Batches):
    """Some of the examples of a maker of batches."""

    source: Any
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.source[self.indices[indices.cpu()]]

    def first(self, number: int) -> "Some":
        """Return the first examples, for twins of a run."""
        return Some(self.source, self.indices[:number])


def as_examples(what: str, given: Any, dtype: torch.dtype) -> Examples:  # noqa: ANN401 (whatever is handed in)
    """Return a split of a problem as examples, whatever it was handed in as.

    Args:
        what: Name of the split, for messages.
        given: Whatever ``Routine.examples`` takes, or examples already.
        dtype: Number format of whatever has a floating point.

    Raises:
        DataError: If no batches can be made of it, there are none, or a number is NaN or infinite.
    """
    if isinstance(given, Examples):
        if not len(given):  # a file with a head and no rows
            raise DataError(f"There are no examples in {what} of the problem. Give at least one.")
        return given
    try:
        source = examples_from(given, torch.device("cpu"))
    except DataError as error:
        raise DataError(f"{what} of the problem: {error}") from error
    if isinstance(source, tuple) and len(source) == 2 and type(source) is tuple:
        cpu = torch.device("cpu")
        inputs, labels = (_placed(column, dtype, cpu) for column in source)
        check_examples(inputs, labels, origin=f"{what} of the problem")
        return Examples(inputs, labels)
    made = OwnExamples(source, dtype)
    lengths = {len(leaf) for leaf in tree_leaves(source)} if isinstance(source, tuple) else {1}
    if len(made) == 0 or len(lengths) > 1:
        raise DataError(
            f"{what} of the problem has {sorted(lengths)} rows in its columns, but every column "
            "has one row for each example, and there is at least one. Repair the columns."
        )
    for column in tree_leaves(getattr(source, "columns", source)):
        if isinstance(column, Tensor):
            check_examples(column, torch.zeros(len(column)), origin=f"{what} of the problem")
    return made


class ReadThrough(NamedTuple):
    """What is known of examples of any kind once all of them were read.

    Attributes:
        fingerprint: 64 hex digits that identify them.
        rows: A digest of each example, all of its columns; None where nobody asked, or a batch has
            anything but tensors of a row for each example.
    """

    fingerprint: str
    rows: list[bytes] | None


def read_through(examples: Examples, *, by_row: bool = False) -> ReadThrough:
    """Read examples of any kind once, from the first to the last, and each row if that is asked."""
    hasher, rows = hashlib.sha256(), list[bytes]()
    source, seen = examples.batches(torch.device("cpu")), 0
    for batch in batches_of(source, _CHUNK):
        leaves, structure = tree_flatten(batch)
        hasher.update(f"{structure}\n".encode())
        for leaf in leaves:
            _hash(hasher, leaf)
        number = min(_CHUNK, len(examples) - seen)
        seen += number
        by_row = by_row and all(
            isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == number for leaf in leaves
        )
        if by_row:
            rows += _row_digests(leaves, number)
    return ReadThrough(hasher.hexdigest(), rows if by_row else None)


def _row_digests(leaves: Sequence[Tensor], number: int) -> list[bytes]:
    flat = [leaf.detach().contiguous().reshape(number, -1) for leaf in leaves]
    columns = [each.view(torch.uint8).numpy() for each in flat if each.shape[1]]
    return [
        hashlib.blake2b(
            b"".join(column[i].tobytes() for column in columns), digest_size=16
        ).digest()
        for i in range(number)
    ]


def drawn_when_read(splits: Mapping[str, Examples]) -> list[str]:
    """Return the names of the splits whose examples change each time that they are read."""
    return [
        name
        for name, examples in splits.items()
        if read_through(examples).fingerprint != read_through(examples).fingerprint
    ]


def _chosen(examples: OwnExamples, indices: Tensor) -> OwnExamples:
    if isinstance(examples.source, Tensor | tuple):
        return OwnExamples(tree_map(lambda c: c[indices], examples.source), examples.dtype)
    if isinstance(examples.source, Columns):  # so that it is seen what is in them
        columns = tree_map(lambda c: c[indices], examples.source.columns)
        return OwnExamples(Columns(columns, examples.source.device), examples.dtype)
    return OwnExamples(Some(examples.source, indices), examples.dtype)


def _placed(leaf: Any, dtype: torch.dtype, device: torch.device) -> Any:  # noqa: ANN401 (of a batch)
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype)


def _hash(hasher: Any, leaf: Any) -> None:  # noqa: ANN401 (of hashlib; of a batch)
    if not isinstance(leaf, Tensor):
        hasher.update(f"{leaf!r}\n".encode())
        return
    hasher.update(f"{leaf.dtype} {tuple(leaf.shape)}\n".encode())
    flat = leaf.detach().contiguous().reshape(-1)
    hasher.update(flat.view(torch.uint8).numpy().data)


def _not_columns(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"This asks for the {what} of the examples, but the problem's examples are not a pair "
        "(inputs, labels). Hand in train, objective, validation and test as pairs of tensors, or "
        "leave out what needs them."
    )
