"""The forms in which examples may be given, each turned into one object that makes batches.

Columns (tensors, arrays, lists of numbers, in a tuple, a dict or a named tuple) are taken rows at a
time. A data set that gives one sample for an index is asked sample by sample, and torch's default
collation makes the batch.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from engine.errors import DataError
from engine.metaparameters.base import constant
from engine.numerics.determinism import seeded
from engine.types import Batch

_KINDS = (
    "Give a tuple of tensors with one row for each example, a dict of such tensors, a torch "
    "Dataset by index, engine.collated(samples, collate_fn), or any object with len() that returns "
    "a batch for a tensor of indices"
)
_MOST_COLUMNS = 8
"""Tensors in a list that are taken for columns; more are taken for samples, and refused."""


class Batches:
    """A maker of batches of the engine's own.

    It is known by its class, because a data set of a user's may have any attribute.
    """

    def first(self, number: int) -> "Batches":
        """Return the first examples, for twins of a run."""
        raise NotImplementedError


def makes_tuples(examples: Any) -> bool:  # noqa: ANN401 (examples of any kind)
    """Say whether batches are tuples of tensors, in which a metaparameter may replace a column."""
    if isinstance(examples, tuple):
        return True
    of_the_engine = type(examples).__module__.startswith("engine.")
    return of_the_engine and getattr(examples, "are_tuples", False)


@dataclass(frozen=True, eq=False)
class Columns(Batches):
    """Columns in a dict, a named tuple, or nested, whose batches have the same structure.

    Attributes:
        columns: Tensors of the same length.
        device: Where batches go.
    """

    columns: Any
    device: torch.device

    def __len__(self) -> int:
        return len(tree_leaves(self.columns)[0])

    @property
    def are_tuples(self) -> bool:
        """Say whether each batch is a plain tuple."""
        return type(self.columns) is tuple

    def __getitem__(self, indices: Tensor) -> Batch:
        return tree_map(lambda c: c[indices.to(c.device)].to(self.device), self.columns)

    def first(self, number: int) -> "Columns":
        """Return the first examples, for twins of a run."""
        return Columns(tree_map(lambda column: column[:number], self.columns), self.device)


@dataclass(frozen=True, eq=False)
class Samples(Batches):
    """A data set that gives one sample for an index.

    Attributes:
        samples: The data set.
        device: Where batches go.
        number: How many of its samples count.
        collate: Makes a batch of samples; torch's default by default.
    """

    samples: Any
    device: torch.device
    number: int
    collate: Callable[[list[Any]], Batch] | None = None

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, indices: Tensor) -> Batch:
        rows = [self.samples[int(index)] for index in indices]
        rows = [tree_map(_detached, row) for row in rows]
        batch = default_collate(rows) if self.collate is None else self.collate(rows)
        if isinstance(batch, list) and self.collate is None:
            batch = tuple(batch)  # torch makes lists of tuples; a batch is what a sample was
        if isinstance(batch, Mapping) and not isinstance(batch, dict):
            batch = dict(batch)  # of a tokenizer, say, whose columns nobody would find
        return tree_map(lambda leaf: _moved(leaf, self.device), batch)

    def first(self, number: int) -> "Samples":
        """Return the first examples, for twins of a run."""
        return Samples(self.samples, self.device, number, self.collate)


@dataclass(frozen=True, eq=False)
class Collated:
    """A data set and how a batch is made of its samples; made by ``collated``."""

    samples: Any
    collate: Callable[[list[Any]], Batch]

    def __len__(self) -> int:
        return len(self.samples)


def collated(samples: Any, collate_fn: Any) -> Collated:  # noqa: ANN401 (whatever was handed in)
    """Return examples whose batches a function makes of samples, as a ``DataLoader`` does.

    For sequences of variable length, tokenizers' collators and samples that are no tensors.

    Args:
        samples: A torch ``Dataset`` by index, a list, a table of ``datasets``.
        collate_fn: Maps a list of samples to a batch; it must draw no random numbers, because a
            step is run again: what is random goes into ``augment``.

    Raises:
        DataError: If there is no sample for an index, or no batch of samples.
    """
    _refuse_streams(samples)
    if not callable(collate_fn):
        raise DataError(
            f"collate_fn is a {type(collate_fn).__name__}. Hand in a function that makes a batch "
            "of a list of samples, e.g. that of your DataLoader."
        )
    return Collated(samples, collate_fn)


@dataclass(frozen=True, eq=False)
class TableRows(Batches):
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
        device: Device of the model.

    Raises:
        DataError: If batches cannot be made of it; says what to hand in.
    """
    if isinstance(given, Batches):
        return given
    if isinstance(given, Collated):
        return _try_one_batch(Samples(given.samples, device, len(given), given.collate))
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
    if type(given) is tuple and given:
        return tuple(_column(each, f"[{at}]") for at, each in enumerate(given))
    if isinstance(given, tuple) or _is_dict(given):
        return _columns(given, device)
    return _by_index(given, device)


def _refuse_streams(given: Any) -> None:  # noqa: ANN401 (whatever is handed in)
    if isinstance(given, DataLoader):
        raise DataError(
            "examples is a DataLoader, but the engine draws its own batches, as a function of the "
            "step. Hand in its data set and its size: examples=loader.dataset, batch_size="
            f"{given.batch_size}; with a collate_fn of your own, engine.collated(loader.dataset, "
            "loader.collate_fn). Its own batches, in their order, are order=loader."
        )
    if isinstance(given, IterableDataset | Iterator):
        raise DataError(
            f"examples is a {type(given).__name__}, which gives examples once, in its own order, "
            f"but a step is run again when the run is reversed. {_KINDS}, e.g. list(...) of it."
        )
    if isinstance(given, type) or not hasattr(given, "__len__") or isinstance(given, str | bytes):
        shown = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise DataError(f"examples is {shown}, of which no batch can be made. {_KINDS}.")


def _is_table(given: Any) -> bool:  # noqa: ANN401 (whatever is handed in)
    return hasattr(given, "column_names") and hasattr(given, "features")


def _is_sample(given: Any) -> bool:  # noqa: ANN401 (whatever is handed in)
    """Say whether an element of a list is a sample, (x, y) or {"x": ..., "y": ...}."""
    if isinstance(given, Mapping):
        return True
    return isinstance(given, tuple) and bool(given)


def _is_dict(given: Any) -> bool:  # noqa: ANN401 (whatever is handed in)
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


def _columns(given: Any, device: torch.device) -> Columns:  # noqa: ANN401 (whatever is handed in)
    if not given:
        raise DataError("There are no training examples. Give at least one.")
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


def _column(given: Any, place: str) -> Tensor:  # noqa: ANN401 (whatever is handed in)
    """Return a column as a constant tensor."""
    column = given
    if not isinstance(column, Tensor):
        try:
            column = _tensor(given, place)
        except DataError:
            raise
        except (TypeError, ValueError, RuntimeError, LookupError) as error:
            raise DataError(
                f"examples{place} is a {type(given).__name__} of which no tensor can be made "
                f"({str(error).splitlines()[0]}). {_KINDS}."
            ) from error
    if column.is_nested or column.layout is not torch.strided or column.is_quantized:
        raise DataError(
            f"examples{place} is a tensor that is sparse, nested or quantized, of which no rows "
            "can be taken. Make it dense (to_dense(), to_padded_tensor(0.0), dequantize()), or "
            "give one sample for each index."
        )
    if column.ndim == 0:
        raise DataError(
            f"examples{place} is one number, but each example is one row of every column. {_KINDS}."
        )
    return constant(column)


def _tensor(given: Any, place: str) -> Tensor:  # noqa: ANN401 (whatever is like an array)
    """Return an array as a tensor, whatever order its bytes and rows lie in."""
    if not hasattr(given, "__array__"):
        return torch.as_tensor(given)
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise DataError(
            f"examples{place} is a masked array with {int(np.ma.count_masked(given))} values that "
            "are masked, and a tensor has no mask: it would hold what lies behind them. Fill them "
            "(array.filled(...)), or leave these rows out."
        )
    array = np.asarray(given)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an array that cannot be written to, and is not
        return torch.as_tensor(array)


def _by_index(given: Any, device: torch.device) -> Any:  # noqa: ANN401 (whatever is handed in)
    """Return an object that makes batches: itself, or its samples one by one."""
    if type(given) is TensorDataset:
        return tuple(_column(each, f"[{at}]") for at, each in enumerate(given.tensors))
    if len(given) == 0:
        raise DataError("There are no training examples. Give at least one.")
    if not hasattr(given, "__getitem__"):
        raise DataError(f"examples is a {type(given).__name__}, which has no order. {_KINDS}.")
    samples = Samples(given, device, len(given))
    ends = torch.tensor([0, len(given) - 1], device="cpu")
    refusal: Exception | None
    with seeded(0, "examples", "a look"):  # what it keeps of a first look is the same every time
        if not isinstance(given, Dataset):
            shown, failed = _attempt(lambda: copy.copy(given))  # a look must not move what it keeps
            _, refusal = _attempt(lambda: (given if failed else shown)[ends])
            if refusal is None:
                return given  # what it returns for indices is its own business
        # By index, as a DataLoader asks: its code may ask what the index is, or draw for each.
        _, wrong = _attempt(lambda: samples[ends])
        if wrong is None:
            return samples
        _, refusal = _attempt(lambda: given[ends])
        if refusal is None:
            return given
    raise DataError(
        f"examples is a {type(given).__name__} that gives neither a batch for a tensor of indices "
        f"({_words(refusal)}) nor samples that can be put together ({_words(wrong)}). {_KINDS}."
    ) from wrong


def _try_one_batch(samples: Samples) -> Samples:
    """Make one batch, so that what cannot be put together is said before training."""
    if len(samples) == 0:
        raise DataError("There are no training examples. Give at least one.")
    ends = torch.tensor([0, len(samples) - 1], device="cpu")
    _, refusal = _attempt(lambda: samples[ends])
    if refusal is not None:
        raise DataError(
            f"collate_fn makes no batch of the first and the last sample: {_words(refusal)}. It is "
            "given a list of samples, as they come from the data set."
        ) from refusal
    return samples


def _attempt(action: Any) -> tuple[Any, Exception | None]:  # noqa: ANN401 (whatever is handed in)
    try:
        return action(), None
    except Exception as error:
        return None, error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _column_or_list(given: Any) -> Any:  # noqa: ANN401 (whatever is handed in)
    """Return a column as a tensor where it holds numbers, and as it is where not."""
    column, refusal = _attempt(lambda: given if isinstance(given, Tensor) else torch.tensor(given))
    return given if refusal is not None else column


def _detached(leaf: Any) -> Any:  # noqa: ANN401 (whatever is handed in)
    return constant(leaf) if isinstance(leaf, Tensor) else leaf


def _moved(leaf: Any, device: torch.device) -> Any:  # noqa: ANN401 (whatever is handed in)
    return leaf.to(device) if isinstance(leaf, Tensor) else leaf


def rows_of(batch: Batch, rows: slice | Tensor, count: int) -> Batch:
    """Return some rows of every tensor of a batch that has one for each of ``count`` examples."""

    def cut(leaf: object) -> object:
        if isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count:
            return leaf[rows]
        return leaf

    return tree_map(cut, batch)
