"""What an update or a loss keeps between two calls outside of the run's state, and reads again.

``self.scale[t] = float(norm)``, filled where it is empty, is a constant whenever a step is asked
again, so no difference of that step shows what it costs. It shows where what is kept is put back:
a step that finds what another state left in its place makes another step of its own.
"""

import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dis import get_instructions
from functools import _lru_cache_wrapper, partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic, filling, generator
from engine.routine.module.reachable import parts_of_callable
from engine.routine.optimizer import Optimizer
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.derivatives.updates import is_shipped
from engine.witness.finite_differences import directions

_MOST = 2000
"""Objects that are looked at: what reaches more is a library, or data."""

_NUMBERS = 1 << 20
"""Tensors and arrays of more numbers are not copied, and not put back."""

_STEPS = 24
"""Steps from the beginning at which an update is asked, beside the last ones: who does something
every so many steps has done it by then."""

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
                waiting += [(inner or name, each) for inner, each in _parts(value)]

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

    def _keep(self, name: str, value: Any) -> None:  # noqa: ANN401 (any object)
        if isinstance(value, FunctionType):
            code, stored = value.__code__, {*_stored(value.__code__)}
            cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
            self._kept += [_kept_cell(each, cell) for each, cell in cells if each in stored]
            self._kept += [
                _kept_variable(each, value.__globals__) for each in stored & {*value.__globals__}
            ]
        elif isinstance(value, _lru_cache_wrapper):
            self._kept.append((name, lambda: value.cache_info().currsize > 0, value.cache_clear))
        elif isinstance(value, dict):
            self._kept.append(_kept_dict(name, value))
        elif isinstance(value, list | set | deque):
            self._kept.append(_kept_list(name, value))
        elif isinstance(value, Tensor | np.ndarray):
            with suppress(Exception):  # a format that cannot be copied or compared
                self._kept += _kept_numbers(name, value)
        elif _is_the_users(type(value)) and hasattr(value, "__dict__"):
            self._kept.append(_kept_dict(name or type(value).__name__, vars(value)))


def _stored(code: CodeType) -> Iterator[str]:
    """Yield the variables around a function, and of its file, that it gives other values."""
    for each in get_instructions(code):
        if each.opname in ("STORE_DEREF", "STORE_GLOBAL"):
            yield each.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _stored(constant)


def _parts(value: Any) -> Iterator[tuple[str, object]]:  # noqa: ANN401 (any object)
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
    elif isinstance(value, type):
        return
    elif _is_the_users(type(value)) and not isinstance(value, nn.Module):
        yield from vars(value).items() if hasattr(value, "__dict__") else ()
        for kind in type(value).__mro__:
            yield from (
                ("", each)
                for each in vars(kind).values()
                if isinstance(each, FunctionType | _lru_cache_wrapper) and _is_the_users(kind)
            )


def _is_the_users(kind: type) -> bool:
    """Say whether a class is neither Python's, an installed package's nor the engine's."""
    if issubclass(kind, nn.Module | ModuleType | Tensor) or kind.__module__ == "builtins":
        return False
    package = kind.__module__.partition(".")[0]
    if package == "engine":
        return False
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is None or not file.startswith(_INSTALLED)


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


def _kept_dict(name: str, value: dict[Any, Any]) -> _Kept:
    before = dict(value)

    def is_changed() -> bool:
        return value.keys() != before.keys() or any(value[k] is not before[k] for k in before)

    def restore() -> None:
        value.clear()
        value.update(before)

    return name, is_changed, restore


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


def refuse_memory(routine: Routine, z: Metaparams) -> None:
    """Refuse an update or a loss that reads what another call of it has left behind.

    Args:
        routine: The run, before any of its steps was taken.
        z: Metaparameters.

    Raises:
        WitnessError: Names where that is kept.

    Cost:
        Nothing for the engine's own optimizers, and for what can reach nothing that it may write
        into. Else an update at some thirty steps without a graph, and the losses of two batches; a
        few more at steps that do write.
    """
    with filling(), deterministic(), torch.no_grad():
        if not is_shipped(routine.optimizer):
            _refuse_updates(routine, z)
        _refuse_losses(routine, z)


_CONSTANT = (
    "The metagradient takes what is kept for a constant, and would miss how it moves with the "
    "parameters"
)


def _refuse_updates(routine: Routine, z: Metaparams) -> None:
    optimizer, last = routine.optimizer, routine.num_steps - 1
    found = None
    with suppress(Exception):  # of code of the user, which others tell
        row = routine.layout.flatten(routine.trainable)
        here: State = {"params": row, **optimizer.init(row.clone())}
        gradient = directions(row, generator(0, "memory")).to(row.dtype)
        there = {name: 1.3 * each for name, each in here.items()}
        states = (here, gradient), (there, 0.7 * gradient.flip(0))

        def call(which: int, at: int) -> State:
            state, slope = states[which]
            given = {name: each.clone() for name, each in state.items()}
            return optimizer.update(given, slope.clone(), routine.hyperparameters(z, at), at)

        few = {*range(_STEPS), last // 4, last // 2, 3 * last // 4, last - 1, last}
        steps = sorted(each for each in few if 0 <= each <= last)
        found = _first_that_reads(KeptByFunctions(optimizer), call, steps)
    if found is not None:
        step, names = found
        raise WitnessError(
            f"The update of optimizer {optimizer.name!r} depends on what an earlier call has left "
            f"in {_in_words(names)}: called with another state in between, it returns another "
            f"result for step {step}. {_CONSTANT}. Let init return what is kept, and update "
            "its next value."
        )


def _refuse_losses(routine: Routine, z: Metaparams) -> None:
    memory, found, last = KeptByFunctions(routine.loss), None, routine.num_steps - 1
    with suppress(Exception):
        state = routine.initial_state(z)
        memory.put_back()  # whether the module moves its buffers was asked by calls of the loss
        rows = (state["params"], state["params"] * 1.1)

        def call(which: int, at: int) -> State:
            term = routine.first_piece(next(routine.terms(at)))
            params = rows[which].clone().requires_grad_()  # a loss may take derivatives
            with routine.reading(state), torch.enable_grad(), routine.binding.keeping():
                return {"": routine.term_losses(params, term, z, at).detach()}

        found = _first_that_reads(memory, call, sorted({last // 2, last}))
    if found is not None:
        step, names = found
        raise WitnessError(
            f"The loss depends on what an earlier call has left in {_in_words(names)}: called "
            f"with other parameters in between, it returns another value for step {step}. "
            f"{_CONSTANT}. Compute it anew, or carry it in a state of the run: "
            "Routine(state=, advance=)."
        )


_Call = Callable[[int, int], State]
"""Is given 0, or 1 for another state, and a step."""


def _first_that_reads(
    memory: KeptByFunctions, call: _Call, steps: Sequence[int]
) -> tuple[int, Sequence[str]] | None:
    if memory.is_empty:
        return None
    found = ((step, _read_again(memory, call, step)) for step in steps)
    return next(((step, names) for step, names in found if names), None)


def _read_again(memory: KeptByFunctions, call: _Call, step: int) -> Sequence[str]:
    """Return the names of memory that a call fills, if its value depends on what another left.

    Args:
        memory: What it can reach, and has when this begins and ends.
        call: Of the update, or of the loss.
        step: t.
    """
    try:
        first = call(0, step)
        names = memory.changed()
        if not names:
            return ()
        memory.put_back()
        if not _is_same(first, call(0, step)):
            return ()  # it draws, or counts elsewhere, which others tell
        memory.put_back()
        for at in range(max(0, step - 1), step + 1):
            call(1, at)
        return () if _is_same(first, call(0, step)) else names
    finally:
        memory.put_back()


def _is_same(one: State, other: State) -> bool:
    return all(torch.equal(row.nan_to_num(), other[name].nan_to_num()) for name, row in one.items())


def _in_words(names: Sequence[str]) -> str:
    known = [*dict.fromkeys(repr(name) for name in names if name)]
    return ", ".join(known[:3]) or "a variable of its own"
