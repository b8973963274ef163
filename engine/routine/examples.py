"""What examples may be: columns of any kind, or samples by index, as one thing that makes batches.

Columns (tensors, arrays, lists of numbers, in a tuple, a dict or a named tuple) are taken rows at a
time. A data set that gives one sample for an index is asked sample by sample, and torch's default
collation makes the batch.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from engine.errors import DataError
from engine.metaparameters.base import constant
from engine.types import Batch

_KINDS = (
    "Give a tuple of tensors with one row for each example, a dict of such tensors, a torch "
    "Dataset by index, or any object with len() that returns a batch for a tensor of indices"
)
_MOST_COLUMNS = 8
"""Tensors in a list that are taken for columns; more are taken for samples, and refused."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns in a dict, a named tuple, or nested, whose batches have the same structure.

    Attributes:
        columns: Tensors of the same length.
        device: Where batches go.
    """

    columns: Any
    device: torch.device

    def __len__(self) -> int:
        return len(tree_leaves(self.columns)[0])

    def __getitem__(self, indices: Tensor) -> Batch:
        return tree_map(lambda c: c[indices.to(c.device)].to(self.device), self.columns)

    def first(self, number: int) -> "Columns":
        """Return the first examples, for twins of a run."""
        return Columns(tree_map(lambda column: column[:number], self.columns), self.device)


@dataclass(frozen=True, eq=False)
class Samples:
    """A data set that gives one sample for an index.

    Attributes:
        samples: The data set.
        device: Where batches go.
        number: How many of its samples count.
    """

    samples: Any
    device: torch.device
    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, indices: Tensor) -> Batch:
        rows = [self.samples[int(index)] for index in indices]
        batch = default_collate([tree_map(_detached, row) for row in rows])
        if isinstance(batch, list):  # torch makes lists of tuples; a batch is what a sample was
            batch = tuple(batch)
        return tree_map(lambda leaf: _moved(leaf, self.device), batch)

    def first(self, number: int) -> "Samples":
        """Return the first examples, for twins of a run."""
        return Samples(self.samples, self.device, number)


@dataclass(frozen=True, eq=False)
class TableRows:
    """A table of the package ``datasets``: a list of indices gives a dict of columns."""

    table: Any
    device: torch.device

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, indices: Tensor) -> Batch:
        columns = self.table[indices.tolist()]
        return {name: _moved(_column_or_list(c), self.device) for name, c in columns.items()}

    def first(self, number: int) -> "TableRows":
        """Return the first examples, for twins of a run."""
        return TableRows(self.table.select(range(number)), self.device)


def examples_from(given: Any, device: torch.device) -> Any:  # noqa: ANN401 (whatever was handed in)
    """Return examples as the engine reads them: a tuple of tensors, or a maker of batches.

    Args:
        given: What was handed in.
        device: Of the model.

    Raises:
        DataError: If batches cannot be made of it; says what to hand in.
    """
    if isinstance(given, Columns | Samples | TableRows) or hasattr(given, "first"):
        return given
    _refuse_streams(given)
    if isinstance(given, Tensor):
        return constant(given)
    if isinstance(given, np.ndarray):
        return _column(given, "")
    if _is_table(given):
        return TableRows(given, device)
    if isinstance(given, tuple | list) and given and all(map(_is_sample, given)):
        return Samples(given, device, len(given))
    if isinstance(given, list) and given and all(isinstance(each, Tensor) for each in given):
        return _columns_of_list(given)
    if type(given) is tuple:
        return tuple(_column(each, f"[{at}]") for at, each in enumerate(given))
    if isinstance(given, tuple) or _is_dict(given):
        return _columns(given, device)
    return _by_index(given, device)


def _refuse_streams(given: Any) -> None:  # noqa: ANN401
    if isinstance(given, DataLoader):
        raise DataError(
            "examples is a DataLoader, but the engine draws its own batches, as a function of the "
            "step. Hand in its data set and its size: examples=loader.dataset, batch_size="
            f"{given.batch_size}. A collate_fn of your own goes into an object with len() that "
            "returns a batch for a tensor of indices."
        )
    if isinstance(given, IterableDataset | Iterator):
        raise DataError(
            f"examples is a {type(given).__name__}, which gives examples once, in its own order, "
            f"but a step is run again when the run is reversed. {_KINDS}, e.g. list(...) of it."
        )
    if isinstance(given, type) or not hasattr(given, "__len__") or isinstance(given, str | bytes):
        shown = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise DataError(f"examples is {shown}, of which no batch can be made. {_KINDS}.")


def _is_table(given: Any) -> bool:  # noqa: ANN401
    return hasattr(given, "column_names") and hasattr(given, "features")


def _is_sample(given: Any) -> bool:  # noqa: ANN401
    """Say whether an element of a list is a sample, (x, y) or {"x": ..., "y": ...}."""
    if isinstance(given, Mapping):
        return True
    return isinstance(given, tuple) and bool(given)


def _is_dict(given: Any) -> bool:  # noqa: ANN401
    """Say whether a mapping is one of columns; one with a length of its own makes batches."""
    if not isinstance(given, Mapping):
        return False
    names = list(given)
    return len(given) == len(names) and all(isinstance(name, str) for name in names)


def _columns_of_list(given: list[Tensor]) -> tuple[Tensor, ...]:
    if len(given) > _MOST_COLUMNS:
        raise DataError(
            f"examples is a list of {len(given)} tensors. If each is one example, stack them: "
            "examples=(torch.stack(inputs), labels). If each is a column, hand in a tuple."
        )
    return tuple(_column(each, f"[{at}]") for at, each in enumerate(given))


def _columns(given: Any, device: torch.device) -> Columns:  # noqa: ANN401
    if isinstance(given, Mapping):
        columns: Any = {name: _column(each, f"[{name!r}]") for name, each in given.items()}
    else:
        columns = type(given)(*[_column(each, f"[{at}]") for at, each in enumerate(given)])
    lengths = {len(column) for column in tree_leaves(columns)}
    if len(lengths) != 1:
        raise DataError(
            f"The columns of the examples have {sorted(lengths)} rows, but each example is one row "
            "of every column. Give as many labels as inputs."
        )
    return Columns(columns, device)


def _column(given: Any, place: str) -> Tensor:  # noqa: ANN401
    """Return a column as a constant tensor."""
    column = given
    if not isinstance(column, Tensor):
        try:
            column = torch.as_tensor(np.asarray(given) if hasattr(given, "dtype") else given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"examples{place} is a {type(given).__name__} of which no tensor can be made "
                f"({str(error).splitlines()[0]}). {_KINDS}."
            ) from error
    if column.ndim == 0:
        raise DataError(
            f"examples{place} is one number, but each example is one row of every column. {_KINDS}."
        )
    return constant(column)


def _by_index(given: Any, device: torch.device) -> Any:  # noqa: ANN401
    """Return an object that makes batches: itself, or its samples one by one."""
    if len(given) == 0:
        raise DataError("There are no training examples. Give at least one.")
    if not hasattr(given, "__getitem__"):
        raise DataError(f"examples is a {type(given).__name__}, which has no order. {_KINDS}.")
    samples = Samples(given, device, len(given))
    ends = torch.tensor([0, len(given) - 1], device="cpu")
    shown, failed = _attempt(lambda: copy.copy(given))  # a look must not move what it keeps
    whole, refusal = _attempt(lambda: (given if failed else shown)[ends])
    if refusal is None and not isinstance(given, Dataset):
        return given  # what it returns for indices is its own business
    batch, wrong = _attempt(lambda: samples[ends])
    if wrong is None:
        return given if refusal is None and _equal(whole, batch) else samples
    if refusal is None:
        return given
    raise DataError(
        f"examples is a {type(given).__name__} that gives neither a batch for a tensor of indices "
        f"({_words(refusal)}) nor samples that can be put together ({_words(wrong)}). {_KINDS}."
    ) from wrong


def _attempt(action: Any) -> tuple[Any, Exception | None]:  # noqa: ANN401
    try:
        return action(), None
    except Exception as error:
        return None, error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _equal(one: Batch, other: Batch) -> bool:
    """Say whether two batches hold the same tensors in the same order."""
    left, right = tree_leaves(one), tree_leaves(other)
    return len(left) == len(right) and all(
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.to(b.device), b)
        for a, b in zip(left, right, strict=True)
    )


def _column_or_list(given: Any) -> Any:  # noqa: ANN401
    """Return a column as a tensor where it holds numbers, and as it is where not."""
    column, refusal = _attempt(lambda: given if isinstance(given, Tensor) else torch.tensor(given))
    return given if refusal is not None else column


def _detached(leaf: Any) -> Any:  # noqa: ANN401
    return constant(leaf) if isinstance(leaf, Tensor) else leaf


def _moved(leaf: Any, device: torch.device) -> Any:  # noqa: ANN401
    return leaf.to(device) if isinstance(leaf, Tensor) else leaf
