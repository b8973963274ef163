"""What functions can reach and write into: noted as it is, and put back."""

import sys
import sysconfig
from collections import UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dis import get_instructions
from functools import _lru_cache_wrapper, partial
from queue import Queue
from threading import local
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from engine.routine.module.reachable import parts_of_callable
from engine.routine.optimizer import Optimizer

_MOST = 2000
"""Objects that are looked at: what reaches more is a library, or data."""

_NUMBERS = 1 << 20
"""Tensors and arrays of more numbers are not copied, and not put back."""

_HOLDERS = (
    *(SimpleNamespace, local, Queue, UserDict, UserList),
    *(WeakKeyDictionary, WeakValueDictionary),
)
"""Classes of Python's whose objects are there to hold what others put into them."""

_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))

_Kept = tuple[str, Callable[[], bool], Callable[[], None]]
"""A name, whether it is another one by now, and what puts it back."""


class KeptByFunctions:
    """What functions can reach and write into, as it is now.

    Containers, attributes of objects of the user's own classes, variables around a function and of
    its file, small tensors and arrays. Modules have a state of their own, and are left out.

    Args:
        functions: Of the user's.
    """

    def __init__(self, *functions: object) -> None:
        self._kept: list[_Kept] = []
        self._seen: dict[int, object] = {}  # alive, so that no identity comes again
        waiting = [("", each) for each in functions]
        while waiting and len(self._seen) < _MOST:
            name, value = waiting.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                self._keep(name, value)
                waiting += [(inner or name, each) for inner, each in parts_of(value)]

    @property
    def is_empty(self) -> bool:
        """Whether they can keep nothing."""
        return not self._kept

    def changed(self) -> list[str]:
        """Return the names of what has been written into."""
        return [name for name, is_changed, _ in self._kept if is_changed()]

    def put_back(self) -> None:
        """Make all of it what it was."""
        for _, is_changed, restore in self._kept:
            if is_changed():
                restore()

    def _keep(self, name: str, value: Any) -> None:  # noqa: ANN401, C901 (any object; kinds of them)
        if isinstance(value, type):
            if not _is_installed(value):
                self._kept += [_kept_attribute(n, value, n) for n, _ in _held_by_class(value)]
        elif isinstance(value, FunctionType):
            code, stored = value.__code__, {*_stored(value.__code__)}
            cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
            self._kept += [_kept_cell(each, cell) for each, cell in cells if each in stored]
            self._kept += [
                _kept_variable(each, value.__globals__) for each in stored & {*value.__globals__}
            ]
            if vars(value):
                self._kept.append(_kept_dict(name or value.__name__, vars(value)))
        elif isinstance(value, _lru_cache_wrapper):
            self._kept.append((name, lambda: value.cache_info().currsize > 0, value.cache_clear))
        elif isinstance(value, dict):
            self._kept.append(_kept_dict(name, value))
        elif isinstance(value, list | set | deque):
            self._kept.append(_kept_list(name, value))
        elif isinstance(value, Tensor | np.ndarray):
            with suppress(Exception):  # a format that cannot be copied or compared
                self._kept += _kept_numbers(name, value)
        elif isinstance(value, nn.Module):
            self._kept.append(_kept_dict(name or type(value).__name__, vars(value), _is_plain))
        elif isinstance(value, ContextVar):
            self._kept.append(_kept_context(name or value.name, value))
        elif _holds(value):
            self._kept += _kept_object(name or type(value).__name__, value)


def _stored(code: CodeType) -> Iterator[str]:
    """Yield the variables around a function, and of its file, that it gives other values."""
    for each in get_instructions(code):
        if each.opname in ("STORE_DEREF", "STORE_GLOBAL"):
            yield each.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _stored(constant)


def parts_of(value: Any) -> Iterator[tuple[str, object]]:  # noqa: ANN401, C901 (any object; a list of kinds)
    """Yield the objects that a function or an object of the user's reaches, and their names."""
    if isinstance(value, FunctionType | MethodType | partial):
        yield from parts_of_callable(value)
    elif isinstance(value, _lru_cache_wrapper):
        yield "", value.__wrapped__
    elif isinstance(value, Optimizer):
        yield from (("", each) for each in (value.init, value.update, value.fit))
    elif isinstance(value, Mapping):
        with suppress(Exception):  # one that makes its values
            yield from ((str(key), each) for key, each in [*value.items()])
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from (("", each) for each in [*value])
    elif isinstance(value, BuiltinMethodType):  # such as append of a list
        yield "", value.__self__
    elif isinstance(value, nn.Module):
        yield from value.named_children()
        yield from ((key, each) for key, each in [*vars(value).items()] if _is_plain(key, each))
        yield from (("", kind) for kind in type(value).__mro__ if not _is_installed(kind))
    elif isinstance(value, type):
        yield from _held_by_class(value) if not _is_installed(value) else ()
    elif _holds(value) and not isinstance(value, nn.Module):
        yield from vars(value).items() if hasattr(value, "__dict__") else ()
        yield from ((n, getattr(value, n)) for n in _slots(type(value)) if hasattr(value, n))
        for kind in type(value).__mro__:
            yield "", kind
            yield from (
                ("", each)
                for each in vars(kind).values()
                if isinstance(each, FunctionType | _lru_cache_wrapper) and _is_the_users(kind)
            )


def _holds(value: object) -> bool:
    """Say whether an object is one that the user's code writes into."""
    return _is_the_users(type(value)) or isinstance(value, _HOLDERS)


def _slots(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        names = vars(each).get("__slots__", ()) if _is_the_users(each) else ()
        for name in (names,) if isinstance(names, str) else names:
            if not name.startswith("__"):
                yield name


def _held_by_class(kind: type) -> Iterator[tuple[str, object]]:
    """Yield the attributes of a class that are neither functions nor what Python put there."""
    for name, value in [*vars(kind).items()]:
        is_code = callable(value) or hasattr(value, "__get__")
        if not name.startswith("__") and not name.startswith("_abc_") and not is_code:
            yield name, value


def _is_the_users(kind: type) -> bool:
    """Say whether a class is neither Python's, an installed package's nor the engine's."""
    if issubclass(kind, nn.Module | ModuleType | Tensor) or kind.__module__ == "builtins":
        return False
    package = kind.__module__.partition(".")[0]
    return package != "engine" and not _is_installed(kind)


def _is_installed(kind: type) -> bool:
    """Say whether a class is Python's or an installed package's."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ == "builtins" or (file is not None and file.startswith(_INSTALLED))


def _kept_cell(name: str, cell: CellType) -> _Kept:
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
        else:
            cell.cell_contents = before

    return name, lambda: content() is not before, restore


def _kept_variable(name: str, variables: dict[str, Any]) -> _Kept:
    before = variables[name]
    return (
        name,
        lambda: variables.get(name) is not before,
        lambda: variables.__setitem__(name, before),
    )


def _kept_object(name: str, value: Any) -> Iterator[_Kept]:  # noqa: ANN401 (any object)
    if hasattr(value, "__dict__"):
        yield _kept_dict(name, vars(value))
    yield from (_kept_attribute(each, value, each) for each in _slots(type(value)))


def _kept_attribute(name: str, owner: Any, key: str) -> _Kept:  # noqa: ANN401 (an object or a class)
    nothing = object()
    before = getattr(owner, key, nothing)

    def restore() -> None:
        if before is nothing:
            delattr(owner, key)
        else:
            setattr(owner, key, before)

    return name, lambda: getattr(owner, key, nothing) is not before, restore


def _kept_context(name: str, variable: ContextVar[Any]) -> _Kept:
    nothing = object()
    before = variable.get(nothing)

    def restore() -> None:
        if before is not nothing:
            variable.set(before)

    return name, lambda: variable.get(nothing) is not before, restore


def _kept_dict(
    name: str, value: dict[Any, Any], counts: Callable[[Any, Any], bool] = lambda *_: True
) -> _Kept:
    def counted() -> dict[Any, Any]:
        return {key: each for key, each in [*value.items()] if counts(key, each)}

    before = counted()

    def is_changed() -> bool:
        now = counted()
        return now.keys() != before.keys() or any(now[k] is not before[k] for k in before)

    def restore() -> None:
        for key in counted().keys() - before.keys():
            del value[key]
        value.update(before)

    return name, is_changed, restore


def _is_plain(key: str, value: object) -> bool:
    """Say whether an attribute of a module is the user's, and neither torch's nor a function."""
    is_torchs = key.startswith("_") or key == "training"
    return not is_torchs and not callable(value) and not isinstance(value, nn.Module)


def _kept_list(name: str, value: Any) -> _Kept:  # noqa: ANN401 (a list, a set or a deque)
    before = [*value]

    def is_changed() -> bool:
        return len(value) != len(before) or any(
            a is not b for a, b in zip(value, before, strict=True)
        )

    def restore() -> None:
        value.clear()
        (value.update if isinstance(value, set) else value.extend)(before)

    return name, is_changed, restore


def _kept_numbers(name: str, value: Any) -> list[_Kept]:  # noqa: ANN401 (a tensor or an array)
    if isinstance(value, np.ndarray):
        if value.size > _NUMBERS or value.dtype.hasobject:
            return []
        copy = value.copy()
        return [
            (
                name,
                lambda: not np.array_equal(value, copy, equal_nan=copy.dtype.kind in "fc"),
                lambda: np.copyto(value, copy),
            )
        ]
    if value.numel() > _NUMBERS or value.layout is not torch.strided:
        return []
    held = value.detach()
    kept = held.clone()
    return [
        (
            name,
            lambda: not torch.equal(held.nan_to_num(), kept.nan_to_num()),
            lambda: held.data.copy_(kept),
        )
    ]
