"""Kinds of things that code writes into: each noted as it is, and put back."""

import gc
import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import _lru_cache_wrapper
from io import BytesIO, IOBase, StringIO
from types import CellType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NUMBERS = 1 << 20
"""Tensors, arrays and buffers of more numbers are not copied, and not put back."""


Key = tuple[int, str]
"""Stands for a place as long as its owner is alive."""


_SOME = 1 << 14
"""Numbers of them that are looked at."""


class Kept(NamedTuple):
    """One place that can be written into.

    Attributes:
        name: Name of it, for messages.
        key: Of the place.
        is_changed: Says whether it is another one by now.
        restore: Puts it back.
        is_only_noted: Whether that is not possible.
    """

    name: str
    key: Key
    is_changed: Callable[[], bool]
    restore: Callable[[], object]
    is_only_noted: bool = False


def kept_cell(name: str, cell: CellType) -> Kept:
    """Note a variable around a function."""
    nothing = object()

    def content() -> object:
        try:
            return cell.cell_contents
        except ValueError:  # the variable is not set
            return nothing

    before = content()

    def restore() -> None:
        if before is nothing:
            del cell.cell_contents
        elif not _is_closed(before):
            cell.cell_contents = before

    return Kept(name, (id(cell), ""), lambda: content() is not before, restore)


def kept_variable(name: str, variables: dict[str, Any]) -> Kept:
    """Note a variable of a file."""
    before = variables[name]

    def restore() -> None:
        if not _is_closed(before):
            variables[name] = before

    return Kept(name, (id(variables), name), lambda: variables.get(name) is not before, restore)


def kept_attribute(name: str, owner: Any, key: str) -> Kept:  # noqa: ANN401 (an object or a class)
    """Note one attribute."""
    nothing = object()
    before = getattr(owner, key, nothing)

    def restore() -> None:
        if before is nothing:
            delattr(owner, key)
        elif not _is_closed(before):
            setattr(owner, key, before)

    return Kept(name, (id(owner), key), lambda: getattr(owner, key, nothing) is not before, restore)


def kept_context(name: str, variable: ContextVar[Any]) -> Kept:
    """Note a variable of a context."""
    nothing = object()
    before = variable.get(nothing)

    def restore() -> None:
        if before is not nothing:
            variable.set(before)

    return Kept(name, (id(variable), ""), lambda: variable.get(nothing) is not before, restore)


def kept_environment() -> Kept:
    """Note the variables of the process's environment."""
    before = dict(os.environ)

    def restore() -> None:
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update(before)

    return Kept("os.environ", (id(os.environ), ""), lambda: dict(os.environ) != before, restore)


def kept_dict(
    name: str, value: dict[Any, Any], counts: Callable[[Any, Any], bool] = lambda *_: True
) -> Kept:
    """Note those entries of a dictionary that count."""

    def counted() -> dict[Any, Any]:
        return {key: each for key, each in [*value.items()] if counts(key, each)}

    before = counted()

    def is_changed() -> bool:
        now = counted()
        return now.keys() != before.keys() or any(now[k] is not before[k] for k in before)

    def restore() -> None:
        for key in counted().keys() - before.keys():
            value.pop(key, None)
        value.update({key: each for key, each in before.items() if not _is_closed(each)})

    return Kept(name, (id(value), ""), is_changed, restore)


def kept_list(name: str, value: Any) -> Kept:  # noqa: ANN401 (a list, a set or a deque)
    """Note what is in a list, a set or a deque."""
    before = [*value]

    def is_changed() -> bool:
        return len(value) != len(before) or any(
            a is not b for a, b in zip(value, before, strict=True)
        )

    def restore() -> None:
        if any(map(_is_closed, before)):
            return
        value.clear()
        (value.update if isinstance(value, set) else value.extend)(before)

    return Kept(name, (id(value), ""), is_changed, restore)


def kept_numbers(name: str, value: Tensor | np.ndarray) -> list[Kept]:
    """Note the numbers of a small tensor or array."""
    if isinstance(value, np.ndarray):
        if value.size > NUMBERS or not value.flags.writeable:
            return []
        copy = np.array(value)
        kind = copy.dtype.kind

        def is_changed() -> bool:
            if kind == "O":
                return any(a is not b for a, b in zip(value.flat, copy.flat, strict=True))
            return not np.array_equal(value, copy, equal_nan=kind in "fc")

        return [Kept(name, (id(value), ""), is_changed, lambda: np.copyto(value, copy))]
    if value.numel() > NUMBERS or value.layout is not torch.strided or value.is_meta:
        return []
    held = value.data
    kept, bits = held.clone(), _bits(held).clone()

    def restore() -> None:
        if value.data_ptr() != held.data_ptr() or value.dtype != held.dtype:
            value.data = held
        held.copy_(kept)

    return [Kept(name, (id(value), ""), lambda: not torch.equal(_bits(value.data), bits), restore)]


def _bits(value: Tensor) -> Tensor:
    """Return the bytes of numbers, which are compared in formats that torch does not calculate in.

    No number of them differs from itself, as one that is not a number does.
    """
    return value.contiguous().reshape(-1).view(torch.uint8)


def kept_large(name: str, value: Tensor | np.ndarray) -> list[Kept]:
    """Note of many numbers whether they are others: some of them, and whether torch has written.

    They may be a data set, so they are neither copied nor all read.
    """

    def found() -> tuple[int, Tensor]:
        version, numbers = -1, value
        if isinstance(numbers, Tensor):
            version, numbers = numbers._version, numbers.detach()
        row = numbers.reshape(-1)
        some = row[:: max(1, len(row) // _SOME)]
        return version, _bits(torch.as_tensor(some)).clone()

    before = found()

    def is_changed() -> bool:
        now = found()
        return now[0] != before[0] or not torch.equal(now[1], before[1])

    return [Kept(name, (id(value), ""), is_changed, lambda: None, is_only_noted=True)]


def kept_cache(name: str, value: "_lru_cache_wrapper[Any]") -> Kept:
    """Note what ``lru_cache`` holds.

    It may be a teacher that was trained since it was made, so what it holds now is never cleared.
    One without a limit has a dictionary, which is put back; one with a limit is cleared if it is
    empty now, and else only noted.
    """
    made, before = gc.get_referents(value), value.cache_info()
    found = [each for each in made if type(each) is dict and each is not vars(value)]
    if before.maxsize is None and len(found) == 1:
        return kept_dict(name, found[0])._replace(key=(id(value), ""))
    is_only_noted, size = before.currsize > 0, before.currsize
    return Kept(
        name,
        (id(value), ""),
        lambda: (
            value.cache_info().misses != before.misses
            if is_only_noted
            else value.cache_info().currsize != size
        ),
        (lambda: None) if is_only_noted else value.cache_clear,
        is_only_noted,
    )


def kept_draws(name: str, value: torch.Generator) -> Kept:
    """Note where a generator of random numbers is."""
    before = value.get_state()
    return Kept(
        name,
        (id(value), ""),
        lambda: not torch.equal(value.get_state(), before),
        lambda: value.set_state(before),
    )


def kept_buffer(name: str, value: Any) -> list[Kept]:  # noqa: ANN401 (bytes that can be written)
    """Note the bytes of a ``bytearray``, an ``array``, a ``memoryview``, ``mmap`` or of ctypes.

    A view is held only as long as it is read, because a buffer that is viewed cannot grow.
    """

    def view() -> Any:  # noqa: ANN401 (an array of bytes)
        return np.frombuffer(value, np.uint8)

    if not view().flags.writeable or view().size > NUMBERS:
        return []
    before = view().copy()

    def restore() -> None:
        if view().size == before.size:
            view()[:] = before

    return [Kept(name, (id(value), ""), lambda: not np.array_equal(view(), before), restore)]


def kept_stream(name: str, value: StringIO | BytesIO) -> list[Kept]:
    """Note what a stream in memory holds."""
    before, place = value.getvalue(), value.tell()

    def restore() -> None:
        if value.closed:
            return
        value.seek(0)
        value.truncate()
        value.write(before)  # pyright: ignore[reportArgumentType] (text to text, bytes to bytes)
        value.seek(place)

    return [
        Kept(name, (id(value), ""), lambda: value.closed or value.getvalue() != before, restore)
    ]


def _is_closed(value: object) -> bool:
    """Say whether a value is a file that was closed since, as of a log that goes on in the next."""
    return isinstance(value, IOBase) and value.closed
