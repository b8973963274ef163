"""Functions of a module that hold the module in a closure, and their copies.

A deep copy copies no functions. A hook that closes over the outer module, or over a dictionary that
the module holds, would read and write the one that was handed in, while the run trains a copy; and
so would a ``forward`` or ``train`` that a user has put in the place of the module's own.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from engine.routine.module.reachable import parts_of_callable

_DEEPEST = 8
"""Functions within functions that are looked into."""

_MOST = 1000
"""Objects that a function may reach, of those that are looked at."""


def bind_hooks(model: nn.Module, duplicate: nn.Module, reader: Callable[..., Any] | None) -> None:
    """Let hooks of a copy hold the copy where those of the model hold the model.

    Args:
        model: The module.
        duplicate: Its deep copy, changed in place.
        reader: The loss. What it can reach by itself stays what it is in the hooks, which write
            there for it.
    """
    copies = _copies(model, duplicate)
    for module in duplicate.modules():
        held = vars(module)
        for key, value in held.items() if not isinstance(module, torch.jit.ScriptModule) else ():
            if isinstance(value, FunctionType | MethodType):
                held[key] = _exchanged(value, copies, ())
    for key in [] if reader is None else _reached(reader):
        copies.pop(key, None)
    for module in duplicate.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number, hook in hooks.items():
                if isinstance(hook, FunctionType):
                    hooks[number] = _bound(hook, copies)


def _copies(model: nn.Module, duplicate: nn.Module) -> dict[int, Any]:
    """Return the copies of modules and of their members, by the identity of the originals."""
    found: dict[int, Any] = {}
    own = dict(duplicate.named_modules(remove_duplicate=False))
    for name, module in model.named_modules(remove_duplicate=False):
        other = own.get(name)
        if other is None or other is module:
            continue
        found[id(module)] = other
        for key, value in vars(module).items():
            if isinstance(value, dict | list | set) and not key.startswith("_"):
                found[id(value)] = vars(other).get(key, value)
    return found


def _bound(
    hook: FunctionType, copies: dict[int, Any], within: tuple[FunctionType, ...] = ()
) -> FunctionType:
    """Return a function that holds the copies, also in functions that it wraps."""
    if hook in within:  # it calls itself
        return hook
    within = (*within, hook)
    cells = hook.__closure__ or ()
    held = [_content(cell) for cell in cells]
    now = [_exchanged(value, copies, within) for value in held]
    given, named = hook.__defaults__ or (), hook.__kwdefaults__ or {}
    defaults = tuple(_exchanged(value, copies, within) for value in given)
    by_name = {name: _exchanged(value, copies, within) for name, value in named.items()}
    before, after = (*held, *given, *named.values()), (*now, *defaults, *by_name.values())
    if all(a is b for a, b in zip(before, after, strict=True)):
        return hook
    closure = tuple(
        cell if other is value else CellType(other)
        for cell, value, other in zip(cells, held, now, strict=True)
    )
    made = FunctionType(hook.__code__, hook.__globals__, hook.__name__, defaults or None, closure)
    made.__kwdefaults__ = by_name or None
    made.__dict__.update(hook.__dict__)
    return made


def _exchanged(value: Any, copies: dict[int, Any], within: tuple[FunctionType, ...]) -> Any:  # noqa: ANN401 (any variable)
    """Return the copy's counterpart of a value; of a method, that of the copy's module."""
    if isinstance(value, MethodType):
        owner = copies.get(id(value.__self__), value.__self__)
        inner = _exchanged(value.__func__, copies, within)  # it may hold what it stands for
        if owner is value.__self__ and inner is value.__func__:
            return value
        return MethodType(inner, owner)
    if isinstance(value, FunctionType) and len(within) < _DEEPEST:  # what a decorator wraps
        return _bound(value, copies, within)
    return copies.get(id(value), value)


def _content(cell: CellType) -> Any:  # noqa: ANN401 (any variable)
    try:
        return cell.cell_contents
    except ValueError:  # a variable that was not set yet
        return None


def _reached(function: Callable[..., Any]) -> set[int]:
    """Return the identities of what a function can reach: closures, globals, owners, attributes."""
    waiting: list[Any] = [function]
    seen: dict[int, Any] = {}  # alive, so that no identity comes again
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            waiting += islice(_parts(value), _MOST)
    return set(seen)


def _parts(value: Any) -> Iterator[Any]:  # noqa: ANN401 (any object)
    if isinstance(value, FunctionType | MethodType | partial):
        yield from (part for _, part in parts_of_callable(value))
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    elif isinstance(value, nn.Module):
        yield from value.modules()
        yield from (v for m in value.modules() for k, v in vars(m).items() if not k.startswith("_"))
    elif hasattr(value, "__dict__") and not isinstance(value, type | ModuleType):
        yield from vars(value).values()


def call_as_written(duplicate: nn.Module) -> None:
    """Let a copy call as it is written what was compiled: a compiled graph has one derivative."""
    for module in duplicate.modules():
        if "_orig_mod" in module._modules:  # of torch.compile
            module.forward = module.get_submodule("_orig_mod").__call__
        if getattr(module, "_compiled_call_impl", None) is not None:  # of module.compile()
            module._compiled_call_impl = None
