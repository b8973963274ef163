"""Objects that a function can reach: closure, defaults, owner, and the globals that it reads."""

import sysconfig
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType

_LIBRARIES = {"torch", "numpy", "engine", "beartype", "jaxtyping"}
"""Packages whose functions read no global of the user's: what they reach is theirs alone. So do
those of Python's own library, which is known by its folder, because people call files as it does.
"""

_PYTHONS, _OTHERS = sysconfig.get_paths()["stdlib"], ("site-packages", "dist-packages")


def parts_of_callable(
    value: FunctionType | MethodType | partial[object],
) -> Iterator[tuple[str, object]]:
    """Yield the objects that a callable reaches directly, each with its name, or "" without one.

    Args:
        value: A function, a method, or a partial of either.
    """
    if isinstance(value, MethodType):
        yield "", value.__self__
        yield "", value.__func__
    elif isinstance(value, partial):
        yield "", value.func
        yield from (("", each) for each in value.args)
        yield from value.keywords.items()
    else:
        yield from _parts_of_function(value)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the variable is not set yet
            continue
    yield from (("", each) for each in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield "", wrapped
    if is_of_library(function):
        return
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def is_of_library(function: FunctionType) -> bool:
    """Say whether a function is Python's or of such a package, whatever a decorator calls it."""
    file = function.__code__.co_filename
    if file.startswith(_PYTHONS) and not any(each in file for each in _OTHERS):
        return True
    modules = function.__module__, function.__globals__.get("__name__")
    return any(str(each).partition(".")[0] in _LIBRARIES for each in modules)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code reads, and those that functions made inside of it read."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
