"""Types of the engine are checked wherever a test calls it, at a price that a suite can pay.

``pytest --jaxtyping-packages`` puts ``jaxtyping.jaxtyped`` on every function. That binds all
arguments at each call, and writes three functions where one is defined: the preflight of a tiny run
takes 13 s instead of 2. One function in forty names an axis; for the others beartype by itself
finds the same. ``check_what_has_axes`` puts this in place of the dear decorator.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ForwardRef, get_args

import beartype
import jaxtyping

_every_time = jaxtyping.jaxtyped
_plain = beartype.beartype(conf=beartype.BeartypeConf(violation_type=jaxtyping.TypeCheckError))
"""Raises what jaxtyping does, a TypeError."""


def check_what_has_axes() -> None:
    """Let modules that are imported from now on be checked by ``_checked``."""
    jaxtyping.jaxtyped = _checked


def _checked(function: Any = None, *, typechecker: Callable[[Any], Any] | None = None) -> Any:
    """Check a function, or the fields of a dataclass, with axes if its annotations name any.

    A function inside another is made at each call of that one, and its check with it, which takes a
    hundred times as long as the call: pyright alone checks those, unless they name axes.
    """
    if function is None:
        return functools.partial(_checked, typechecker=typechecker)
    annotated = function.__init__ if inspect.isclass(function) else function
    if any(map(_needs_more_than_beartype, getattr(annotated, "__annotations__", {}).values())):
        return _every_time(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        return function
    if not inspect.isclass(function):
        return _plain(function)
    if "__dataclass_fields__" in vars(function):
        function.__init__ = _plain(function.__init__)
    return function


def _needs_more_than_beartype(annotation: Any) -> bool:
    """Whether an annotation names axes, or is a text that only jaxtyping forgives if unknown."""
    if isinstance(annotation, str | ForwardRef):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_needs_more_than_beartype, get_args(annotation)))
