"""Refuses random numbers that no step seeds: of Python, of numpy, or of a user's generators.

A call that draws them gives another result each time. Two calls may still agree by luck, for
example where a layer is left out one time in ten, so the states of the generators are compared.
"""

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import numpy as np

from engine.errors import ConfigurationError
from engine.witness.held_generators import held_generators

_Value = TypeVar("_Value")

_TYPE_CHECKS = ("<@beartype", "/beartype/", "/typeguard/")
"""They draw which element of a container they look at, which changes no result."""


def undrawn(what: str, call: Callable[[], _Value], *owners: object) -> _Value:
    """Return what a call returns; refuse one that draws from a generator that nobody seeds.

    Args:
        what: What is called, for people.
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
        seeds: What the generator is after each time that it is seeded. What it is at the end is
            not looked at, since whoever checks types draws from it, too.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seeds: list[object] = []

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(self._note)

    def __exit__(self, *_: object) -> None:
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
        "run again would draw others. Draw from torch's global generator, e.g. torch.rand(()), or "
        "make a generator with a seed of its own inside of the call."
    )
