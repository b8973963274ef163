"""What functions can reach and write into: noted as it is, and put back."""

import os
import sys
from array import array
from collections import UserDict, UserList, deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from ctypes import Array, Structure, _SimpleCData
from functools import _lru_cache_wrapper, partial
from io import BytesIO, IOBase, StringIO
from mmap import mmap
from queue import Queue
from threading import local
from types import (
    BuiltinMethodType,
    FunctionType,
    GeneratorType,
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
from engine.witness.memory.names import INSTALLED, Names, names_in
from engine.witness.memory.writable import (
    NUMBERS,
    Kept,
    Key,
    kept_attribute,
    kept_buffer,
    kept_cache,
    kept_cell,
    kept_context,
    kept_dict,
    kept_draws,
    kept_environment,
    kept_large,
    kept_list,
    kept_numbers,
    kept_stream,
    kept_variable,
)

_MOST = 2000
"""Objects that are looked at: what reaches more is a library, or data."""

_HOLDERS = (
    *(SimpleNamespace, local, Queue, UserDict, UserList),
    *(WeakKeyDictionary, WeakValueDictionary),
)
"""Classes of Python's whose objects are there to hold what others put into them."""

_OUTSIDE = ("sqlite3", "_sqlite3", "socket", "_socket", "multiprocessing", "subprocess", "dbm")
"""Modules of Python's whose objects keep what they are given where nobody can put it back."""

_LEAVE = ("threading", "_thread", "logging", "asyncio", "concurrent", "importlib", "weakref")
"""Modules of Python's whose objects are no place for a number, and are at work meanwhile."""

_NUMBERS_OF_MODULE = 1 << 12
"""Tensors of more numbers of a module that is in no state, as of a teacher, are not copied."""

_BUFFERS = (bytearray, array, memoryview, mmap, Structure, Array, _SimpleCData)


_PLAIN_KINDS = (dict, list, set, deque, Tensor, np.ndarray, SimpleNamespace)
"""What is looked into of an object of a library's."""


class KeptByFunctions:
    """What functions can reach and write into, as it is now.

    Containers, attributes of objects, variables around a function and of its file, of files of the
    user's and of the environment, small tensors, arrays, buffers and streams. Modules of torch have
    a state of their own, of which nothing is noted here.

    Args:
        functions: Of the user's.
        of_state: A module whose tensors are a state of the run, and are left out. Those of others,
            as of a teacher, are noted.
        draws: Whether generators of random numbers are noted.

    Attributes:
        is_open: Whether they reach something that keeps what nobody can put back, as a generator, a
            data base or another process.
    """

    def __init__(
        self, *functions: object, of_state: nn.Module | None = None, draws: bool = True
    ) -> None:
        self._draws = draws
        self._in_state = {id(each) for each in of_state.modules()} if of_state is not None else ()
        self._kept: list[Kept] = []
        self._seen: dict[int, object] = {}  # alive, so that no identity comes again
        self.is_open = self._fails = False
        self._names = Names()
        waiting = [("", each) for each in functions]
        later: list[tuple[str, object]] = []  # of libraries, which may reach a great deal
        while (waiting or later) and len(self._seen) < _MOST:
            name, value = waiting.pop() if waiting else later.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                self._keep(name, value)
                parts = [(inner or name, each) for inner, each in parts_of(value)]
                (later if _is_of_library(value) else waiting).extend(parts)
        self.is_open |= self._names.tell

    @property
    def is_empty(self) -> bool:
        """Whether they can keep nothing."""
        return not self._kept

    def changed(self) -> list[str]:
        """Return the names of what has been written into."""
        return [*self.written().values()]

    def written(self) -> dict[Key, str]:
        """Return what stands for the places that have been written into, with their names."""
        return {each.key: each.name for each in self._kept if _is_changed(each)}

    @property
    def is_lost(self) -> bool:
        """Whether something has been written into that cannot be put back."""
        return self._fails or any(each.is_only_noted and _is_changed(each) for each in self._kept)

    def put_back(self) -> None:
        """Make all of it what it was, as far as that is possible."""
        for each in self._kept:
            if _is_changed(each):
                try:
                    each.restore()
                except Exception:  # of what the user has closed or resized, or made read-only
                    self._fails = True

    def only(self, keys: Collection[Key], new_beside: "KeptByFunctions") -> "KeptByFunctions":
        """Return some of the places, and those that others did not know yet."""
        known = {each.key for each in new_beside._kept}
        some = KeptByFunctions()
        some._seen = {**self._seen, **new_beside._seen}
        some._kept = [each for each in self._kept if each.key in keys or each.key not in known]
        return some

    def _keep(self, name: str, value: Any) -> None:  # noqa: ANN401, C901 (any object; kinds of them)
        if isinstance(value, type | FunctionType | ModuleType):
            self._keep_code(name, value)
        elif isinstance(value, _lru_cache_wrapper):
            self._kept.append(kept_cache(name, value))
        elif isinstance(value, dict):
            self._kept.append(kept_dict(name, value))
        elif isinstance(value, list | set | deque):
            self._kept.append(kept_list(name, value))
        elif isinstance(value, Tensor | np.ndarray):
            self._keep_numbers(name, value, NUMBERS)
            if isinstance(value, Tensor):
                self._kept.append(kept_dict(name, vars(value)))
        elif isinstance(value, nn.Module):
            self._keep_module(name, value)
        elif isinstance(value, torch.Generator):
            self._kept += [kept_draws(name, value)] if self._draws else []
        elif isinstance(value, ContextVar):
            self._kept.append(kept_context(name or value.name, value))
        elif isinstance(value, (*_BUFFERS, IOBase)):
            with suppress(Exception):  # one that is closed, or cannot be read
                if isinstance(value, StringIO | BytesIO):
                    self._kept += kept_stream(name, value)
                elif isinstance(value, IOBase):  # a file is the user's, and is not written into
                    self.is_open |= value.readable() and value.writable()
                else:
                    self._kept += kept_buffer(name, value)
        elif isinstance(value, GeneratorType) or _module_of(value) in _OUTSIDE:
            self.is_open = True
        elif _holds(value) or _is_of_library(value):
            if _has_attributes(value):
                self._kept.append(kept_dict(name or type(value).__name__, vars(value)))
            self._kept += [kept_attribute(each, value, each) for each in _slots(type(value))]

    def _keep_code(self, name: str, value: type | FunctionType | ModuleType) -> None:
        if isinstance(value, ModuleType):
            if not _is_installed_file(value):
                self._kept.append(kept_dict(name, vars(value), _is_variable))
        elif isinstance(value, type):
            if not _is_installed(value):
                self._kept += [kept_attribute(n, value, n) for n, _ in _held_by_class(value)]
        else:
            self._keep_function(name, value)

    def _keep_function(self, name: str, value: FunctionType) -> None:
        code, stored = value.__code__, {*names_in(value.__code__)}
        cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
        self._kept += [kept_cell(each, cell) for each, cell in cells if each in stored]
        self._kept += [
            kept_variable(each, value.__globals__) for each in stored & {*value.__globals__}
        ]
        if vars(value):
            self._kept.append(kept_dict(name or value.__name__, vars(value)))
        self._kept += _kept_by_name(value)
        self._names.look_at(value)

    def _keep_module(self, name: str, value: nn.Module) -> None:
        self._kept.append(kept_dict(name or type(value).__name__, vars(value), _is_plain))
        if id(value) not in self._in_state:
            tensors = {**value._parameters, **value._buffers}
            for key, each in tensors.items():
                self._keep_numbers(f"{name}.{key}", each, _NUMBERS_OF_MODULE)

    def _keep_numbers(self, name: str, value: Any, most: int) -> None:  # noqa: ANN401 (numbers, or None)
        with suppress(Exception):  # a format that cannot be copied or compared
            size = value.size if isinstance(value, np.ndarray) else value.numel()
            self._kept += (kept_numbers if size <= most else kept_large)(name, value)


def _is_changed(kept: Kept) -> bool:
    """Say whether a place is another one by now; one that cannot be read any more is."""
    try:
        return kept.is_changed()
    except Exception:  # of a kind of the user's, or of what the user has closed
        return True


def _kept_by_name(function: FunctionType) -> Iterator[Kept]:
    """Note what a function reaches by the names in it: the environment, attributes of packages."""
    reached = [each for _, each in parts_of_callable(function)]
    modules = [each for each in reached if isinstance(each, ModuleType)]
    names = {*names_in(function.__code__, ("LOAD_ATTR", "LOAD_METHOD"))}
    stored = {*names_in(function.__code__, ("STORE_ATTR",))}
    inner = [getattr(each, name, None) for each in modules for name in names if stored]
    for owner in [*modules, *(each for each in inner if isinstance(each, type | ModuleType))]:
        if _is_installed_file(owner) if isinstance(owner, ModuleType) else _is_installed(owner):
            yield from (kept_attribute(f"{owner.__name__}.{n}", owner, n) for n in stored)
    if any(each is os or each is os.environ for each in reached):
        yield kept_environment()


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
        yield from [*getattr(value, "__dict__", {}).items()]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from (("", each) for each in [*value])
    elif isinstance(value, BuiltinMethodType):  # such as append of a list
        yield "", value.__self__
    elif isinstance(value, nn.Module):
        yield from value.named_children()
        yield from ((key, each) for key, each in [*vars(value).items()] if _is_plain(key, each))
        for kind in type(value).__mro__:
            if not _is_installed(kind):
                yield "", kind
                yield "", vars(kind).get("forward")
    elif isinstance(value, type):
        yield from _held_by_class(value) if not _is_installed(value) else ()
    elif isinstance(value, ModuleType):
        if not _is_installed_file(value):
            yield from (each for each in [*vars(value).items()] if _is_variable(*each))
    elif _is_of_library(value):
        yield from (each for each in [*vars(value).items()] if isinstance(each[1], _PLAIN_KINDS))
    elif _holds(value) and not isinstance(value, nn.Module):
        yield from [*vars(value).items()] if _has_attributes(value) else ()
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


def _is_of_library(value: object) -> bool:
    """Say whether an object is of a class of Python's or of a package, and has attributes."""
    kind = type(value)
    if isinstance(value, nn.Module | ModuleType | Tensor | type | FunctionType | Optimizer):
        return False
    if not _has_attributes(value) or not _is_installed(kind) or isinstance(value, _HOLDERS):
        return False
    package = kind.__module__.partition(".")[0]
    return package not in (*_LEAVE, "builtins", "numpy", "engine")


def _has_attributes(value: object) -> bool:
    """Say whether an object has attributes of its own; an alias shows those of a class."""
    return isinstance(getattr(value, "__dict__", None), dict)


def _module_of(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _is_installed_file(module: ModuleType) -> bool:
    """Say whether a module is Python's, a package's or the engine's."""
    file = getattr(module, "__file__", None)
    is_engines = module.__name__.partition(".")[0] == "engine"
    return file is None or is_engines or file.startswith(INSTALLED)


def _is_variable(name: str, value: object) -> bool:
    """Say whether a name of a file is a variable of it."""
    is_code = callable(value) or isinstance(value, ModuleType | type)
    return not name.startswith("__") and not is_code


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
    return kind.__module__ == "builtins" or (file is not None and file.startswith(INSTALLED))


def _is_plain(key: str, value: object) -> bool:
    """Say whether an attribute of a module is the user's, and neither torch's nor a function."""
    is_torchs = key.startswith("_") or key == "training"
    return not is_torchs and not callable(value) and not isinstance(value, nn.Module)
