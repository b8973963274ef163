"""Finds generators of random numbers that the user's code keeps, and that no step seeds.

A loss that flips a coin of its own once in fifty steps agrees with itself as often as not, so the
generators that it can reach are looked at, as those of Python and of numpy are.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MOST = 5000
"""Objects that are looked at; what lies behind more of them is not looked for."""

_LONGEST = 64
"""Elements of a list or a dict that are looked at."""

_CALLS = ("__call__", "__getitem__")

_States = dict[str, tuple[Any, Callable[[], object]]]


def held_generators(*owners: object) -> _States:
    """Return the generators that objects can reach, and how to read the state of each, by name.

    Followed are closures, defaults, names of globals that code reads, attributes, lists and dicts.
    """
    found: _States = {}
    seen: set[int] = set()
    kept: list[object] = []  # alive, so that no identity comes again
    waiting: list[tuple[str, object]] = [("", owner) for owner in owners]
    while waiting and len(seen) < _MOST:
        name, value = waiting.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        kept.append(value)
        state = _state_of(value)
        if state is not None:
            found.setdefault(name or type(value).__name__, (value, state))
            continue
        with suppress(Exception):  # of an object that does not like to be looked at
            parts = _parts(value)
            waiting += [(inner or name, part) for inner, part in parts if not _is_empty(part)]
    return found


_PLAIN = (str, bytes, int, float, complex, Tensor, np.ndarray, ModuleType, type, type(None))


def _is_empty(value: object) -> bool:
    """Say whether nothing can lie in a value, as in most of what modules of torch hold."""
    return isinstance(value, _PLAIN) or (type(value) in _CONTAINERS and not value)


_CONTAINERS = {dict, OrderedDict, list, tuple, set, frozenset}


def _state_of(value: object) -> Callable[[], object] | None:
    if isinstance(value, torch.Generator):
        return lambda: value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return lambda: repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return lambda: repr([np.asarray(part).tolist() for part in value.get_state(legacy=True)])
    if type(value) is random.Random:
        return value.getstate
    return None


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, MethodType):
        yield "", value.__self__
        yield "", value.__func__
    elif isinstance(value, partial):
        yield "", value.func
        yield from (("", each) for each in value.args)
        yield from value.keywords.items()
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, dict):
        # As dict itself does it: a class of dicts may make its values when it is asked for them.
        yield from ((str(key), each) for key, each in islice(dict.items(value), _LONGEST))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (("", each) for each in islice(value, _LONGEST))
    elif not str(type(value).__module__).startswith(("torch.autograd", "builtins")):
        held = getattr(value, "__dict__", None)
        if isinstance(held, dict):
            yield from held.items()
        own = [getattr(type(value), name, None) for name in ("forward", *_CALLS)]
        yield from (("", each) for each in own if isinstance(each, FunctionType))


def _of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # empty so far
            continue
    yield from (("", each) for each in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    if str(function.__module__).partition(".")[0] in ("torch", "numpy", "engine", "random"):
        return
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield "", wrapped


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code reads, and those of functions that are made in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
