"""Examples of any kind as the splits of a problem."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from engine.errors import ConfigurationError, DataError
from engine.problems.splits import Examples, check_examples
from engine.routine.examples import examples_from
from engine.types import Batch

_CHUNK = 256
"""Samples of a data set by index that are read at a time for its fingerprint."""


@dataclass(frozen=True, eq=False)
class OwnExamples(Examples):
    """Examples that are not a pair of tensors: a dict, more columns, or a data set by index.

    Attributes:
        source: What ``Routine`` reads, see ``engine.routine.examples``.
        dtype: Number format of whatever has a floating point.
    """

    source: Any
    dtype: torch.dtype

    def __init__(self, source: Any, dtype: torch.dtype) -> None:  # noqa: ANN401
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "dtype", dtype)

    @property
    def inputs(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There are none by themselves: refused."""
        raise _not_columns("inputs")

    @property
    def labels(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There are none by themselves: refused."""
        raise _not_columns("labels")

    def __len__(self) -> int:
        return _length(self.source)

    def to(self, device: torch.device) -> "OwnExamples":
        """Return the same examples, whose batches are on a device."""
        if isinstance(self.source, Tensor | tuple):
            return OwnExamples(tree_map(lambda c: c.to(device), self.source), self.dtype)
        if hasattr(self.source, "device"):
            return OwnExamples(replace(self.source, device=device), self.dtype)
        return self

    def batches(self, device: torch.device) -> Any:  # noqa: ANN401 (as Routine.examples)
        """Return the examples as a routine reads them."""
        moved = self.to(device).source
        if isinstance(moved, Tensor | tuple):
            return tree_map(lambda column: _cast(column, self.dtype), moved)
        return Cast(moved, self.dtype)

    def first(self, number: int) -> "OwnExamples":
        """Return the first ones."""
        if isinstance(self.source, Tensor | tuple):
            return OwnExamples(tree_map(lambda c: c[:number], self.source), self.dtype)
        if hasattr(self.source, "first"):
            return OwnExamples(self.source.first(number), self.dtype)
        return OwnExamples(Cast(self.source, self.dtype, number), self.dtype)

    def at(self, indices: Tensor) -> Batch:
        """Return a batch."""
        if isinstance(self.source, Tensor | tuple):
            return tree_map(lambda c: c[indices.to(c.device)], self.batches_as_given())
        return Cast(self.source, self.dtype)[indices]

    def batches_as_given(self) -> Any:  # noqa: ANN401 (columns)
        """Return columns where they are, in the run's number format."""
        return tree_map(lambda column: _cast(column, self.dtype), self.source)


@dataclass(frozen=True, eq=False)
class Cast:
    """A maker of batches whose numbers get the run's format."""

    source: Any
    dtype: torch.dtype
    number: int | None = None

    def __len__(self) -> int:
        return len(self.source) if self.number is None else self.number

    def __getitem__(self, indices: Tensor) -> Batch:
        return tree_map(lambda leaf: _cast(leaf, self.dtype), self.source[indices])

    def first(self, number: int) -> "Cast":
        """Return the first examples, for twins of a run."""
        if hasattr(self.source, "first"):
            return Cast(self.source.first(number), self.dtype)
        return Cast(self.source, self.dtype, number)


def as_examples(what: str, given: Any, dtype: torch.dtype) -> Examples:  # noqa: ANN401
    """Return what a problem has for a split as examples.

    Args:
        what: Name of the split, for messages.
        given: Whatever ``Routine.examples`` takes, or examples already.
        dtype: Number format of whatever has a floating point.

    Raises:
        DataError: If no batches can be made of it, or a number is NaN or infinite.
    """
    if isinstance(given, Examples):
        return given
    try:
        source = examples_from(given, torch.device("cpu"))
    except DataError as error:
        raise DataError(f"{what} of the problem: {error}") from error
    if isinstance(source, tuple) and len(source) == 2 and type(source) is tuple:
        inputs, labels = (_cast(column, dtype) for column in source)
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


def own_fingerprint(examples: Examples) -> str:
    """Return 64 hex digits that identify examples of any kind, read through once."""
    hasher = hashlib.sha256()
    if not isinstance(examples, OwnExamples):
        _hash(hasher, (examples.inputs, examples.labels))
        return hasher.hexdigest()
    for start in range(0, len(examples), _CHUNK):
        indices = torch.arange(start, min(start + _CHUNK, len(examples)))
        _hash(hasher, examples.at(indices))
    return hasher.hexdigest()


def take(examples: Examples, indices: Tensor) -> Examples:
    """Return some of the examples, in the order of the indices."""
    if not isinstance(examples, OwnExamples):
        return replace(examples, inputs=examples.inputs[indices], labels=examples.labels[indices])
    if isinstance(examples.source, Tensor | tuple):
        return OwnExamples(tree_map(lambda c: c[indices], examples.source), examples.dtype)
    return OwnExamples(_Some(examples.source, indices), examples.dtype)


@dataclass(frozen=True, eq=False)
class _Some:
    """Some of the examples of a maker of batches."""

    source: Any
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.source[self.indices[indices.cpu()]]

    def first(self, number: int) -> "_Some":
        return _Some(self.source, self.indices[:number])


def _length(source: Any) -> int:  # noqa: ANN401
    return len(tree_leaves(source)[0]) if isinstance(source, tuple) else len(source)


def _cast(leaf: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.to(dtype) if floating else leaf


def _hash(hasher: Any, batch: Batch) -> None:  # noqa: ANN401
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            hasher.update(f"{leaf.dtype} {tuple(leaf.shape)}\n".encode())
            flat = leaf.detach().cpu().contiguous().reshape(-1)
            hasher.update(flat.view(torch.uint8).numpy().data)
        else:
            hasher.update(repr(leaf).encode())
    if isinstance(batch, Mapping):
        hasher.update(repr(list(batch)).encode())


def _not_columns(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"This asks for the {what} of the examples, but the problem's examples are not a pair "
        "(inputs, labels). Hand in train, objective, validation and test as pairs of tensors, or "
        "leave out what needs them."
    )
