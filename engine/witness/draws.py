"""Refuses random numbers that no step seeds: of Python, of numpy, or of a user's generators.

A call that draws them gives another result each time. Two calls may still agree by luck, for
example where a layer is left out one time in ten, so the states of the generators are compared:
those of Python and of numpy, and those of the generators that the user's code can reach.
"""

import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.routine.module.reachable import parts_of_callable

_Value = TypeVar("_Value")

_TYPE_CHECKS = ("<@beartype", "/beartype/", "/typeguard/")
"""They draw which element of a container they look at, which changes no result."""


def undrawn(what: str, call: Callable[[], _Value], *owners: object) -> _Value:
    """Return the result of a call; refuse one that draws from a generator that is not seeded.

    Args:
        what: Name of what is called, for messages.
        call: Is called once; up to four times more only where a generator has moved meanwhile. One
            that seeds them itself, with the same number each time, passes.
        *owners: Where else generators are looked for, which the call may draw from.

    Raises:
        ConfigurationError: Names the generator, and the line that draws where that is known.
    """
    held = held_generators(*owners)
    python, numpy = random.getstate(), _of_numpy()
    before = {name: state() for name, (_, state) in held.items()}
    value = call()
    moved = {n: held[n][1]() for n in held if held[n][1]() != before[n]}
    if moved:
        call()
        for name, state in moved.items():
            generator, now = held[name]
            if now() != state:
                kind = f"{type(generator).__module__.partition('.')[0]}.{type(generator).__name__}"
                raise _refusal(what, f"{name!r}, a {kind} that it keeps")
    if _of_numpy() != numpy:
        numpy = _of_numpy()
        call()  # what it seeds itself is left as it was left before
        if _of_numpy() != numpy:
            raise _refusal(what, "numpy.random")
    if random.getstate() != python:
        drawn = _Drawn()
        with drawn:
            call()
        if drawn.lines:
            raise _refusal(what, f"Python's module random (at {drawn.lines[0]})")
        if drawn.seeds:
            again = _Drawn()
            with again:
                call()
            if drawn.seeds != again.seeds:
                raise _refusal(what, "Python's module random, seeded with another number each time")
    return value


def _of_numpy() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return name, np.asarray(keys).tobytes(), *rest


class _Drawn:
    """Notes the lines that draw from Python's generator inside the block, unless they seed it.

    Attributes:
        lines: File and line of each draw. Those of type checks are left out.
        seeds: What the generator is after each time that it is seeded. What it is at the end is not
            looked at, since anyone who checks types draws from it, too.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seeds: list[object] = []

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        # A profiler that is written in C, as cProfile, cannot be put back by Python, so it stays.
        self._is_free = self._before is None or callable(self._before)
        if self._is_free:
            sys.setprofile(self._note)

    def __exit__(self, *_: object) -> None:
        if self._is_free:
            sys.setprofile(self._before)

    def _note(self, frame: FrameType, event: str, called: Any) -> None:  # noqa: ANN401 (of any event)
        if getattr(called, "__self__", None) is not _GENERATOR:
            return
        if event == "c_return" and called.__name__ in ("seed", "setstate"):
            self.seeds.append(_GENERATOR.getstate())
        if event != "c_call":
            return
        at: FrameType | None = frame
        while at is not None and at.f_code.co_filename == random.__file__:
            at = at.f_back
        if self.seeds or at is None or called.__name__ in ("seed", "setstate"):
            return
        file = at.f_code.co_filename
        if called.__name__ != "getstate" and not any(part in file for part in _TYPE_CHECKS):
            self.lines.append(f"{file}:{at.f_lineno}")


_GENERATOR = random.random.__self__  # pyright: ignore[reportFunctionMemberAccess] (a bound method)


def _refusal(what: str, generator: str) -> ConfigurationError:
    return ConfigurationError(
        f"The {what} draws random numbers from {generator}, which no step seeds, so a step that is "
        "run again would draw different ones. Draw from torch's global generator, e.g. "
        "torch.rand(()), or make a generator with a seed of its own inside of the call."
    )


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
    if isinstance(value, FunctionType | MethodType | partial):
        yield from parts_of_callable(value)
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
