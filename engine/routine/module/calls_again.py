"""Calls that turn out to need a mode in which they may copy, freeze or train, and are made again.

What the mode does says ``engine.routine.module.buffers.holding``.
"""

import sys
from collections.abc import Callable, Sequence
from enum import Enum, auto
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, autograd

from engine.routine.module.stop_gradient import is_stop
from engine.torch_modes import FunctionMode

HOLDING = "calls copy, freeze or train inside"
"""Where a routine notes how many of its last losses certainly did, one after another."""

_SURE = 2
"""Calls in a row that copy or freeze before the next one is expected to: some do so at times."""

_ASKED_OF_LEAVES = ("support the deepcopy protocol", "change requires_grad flags of leaf")


class HoldingWanted(BaseException):  # which code of the user does not take for an error of its own
    """A call takes a gradient whose derivative would be lost; the call is to be made again."""


def wants_holding(error: BaseException) -> bool:
    """Say whether a call failed for what only leaves of a graph have, or asked by itself."""
    if isinstance(error, HoldingWanted):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _ASKED_OF_LEAVES)


def leaves_of(value: Tensor, own: Sequence[Tensor] = ()) -> list[Tensor]:
    """Return the leaves to which the gradient of a value flows, and not by way of ``own``."""
    waiting, seen = [value.grad_fn], {each.grad_fn for each in own}
    found = list[Tensor]()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen or is_stop(node):
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


_Called = TypeVar("_Called")

_WATCHED: list[Sequence[Tensor]] = []
"""Parameters of the calls that are made without the mode, the innermost last: of the process, in
which one thread at a time computes (``engine.numerics.determinism.PROCESS``)."""

_torch_run = autograd._engine_run_backward  # pyright: ignore[reportPrivateImportUsage] (what torch's functions call)


def _run(outputs: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as torch's)
    """Take the place of what torch's derivatives call, and note those whose own would be lost.

    Raises:
        HoldingWanted: If code of the user takes a gradient by what follows the parameters, or of
            an inner training that does not reach them, and keeps no graph of it.
    """
    _, _, creates, inputs, *_ = args
    own = _WATCHED[-1] if _WATCHED else ()
    if not creates and any(each.requires_grad for each in own) and _user_frame() is not None:
        given = [each for each in inputs if isinstance(each, Tensor)]
        if any(each.grad_fn is not None for each in given) or not _reaches(outputs, own):
            raise HoldingWanted("A call takes a gradient without a graph of it.")
    return _torch_run(outputs, *args, **kwargs)


def _reaches(outputs: Sequence[Tensor], own: Sequence[Tensor]) -> bool:
    roots = {id(leaf) for tensor in own for leaf in leaves_of(tensor)}
    return any(id(leaf) in roots for each in outputs for leaf in leaves_of(each))


def _user_frame() -> FrameType | None:
    """Return where the user's code called torch; None if the engine, or nobody, did.

    Modes of the engine hand on what the user called.
    """
    frame, is_engines = sys._getframe(1), False
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        package = name.partition(".")[0]
        if name == FunctionMode.__module__:
            is_engines = False
        elif package == "engine":
            is_engines = is_engines or name != __name__
        elif package != "torch":
            return None if is_engines else frame
        frame = frame.f_back
    return None


def users_line() -> str:
    """Return file and line of the user's code that called torch, for messages."""
    frame = _user_frame()
    return (
        "a place that is not known"
        if frame is None
        else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    )


WATCHED = (autograd, "_engine_run_backward", _run)
"""A module, a name in it, and what stands there while a module is called."""


class Way(Enum):
    """How a call is made: without the mode, in it as calls before were, or because it has to be."""

    PLAIN = auto()
    EXPECTED = auto()
    NEEDED = auto()


class HoldingUnneeded(BaseException):
    """A call that was expected to need the mode did not, and is to be made without."""


def call_as_wanted(
    parameters: Sequence[Tensor],
    device: torch.device,
    call: Callable[[Way], tuple[_Called, bool]],
    programs: dict[str, Any] | None = None,
) -> _Called:
    """Carry out a call of the user's code; in the mode, if it turns out to need it.

    Which it is follows from the call alone: a process that reverses other steps of the run has not
    seen this one, and in the mode a ``detach()`` is another. What was noted of calls before decides
    only which way is tried first.

    Args:
        parameters: What is bound in the place of the parameters.
        device: Of the parameters.
        call: Binds everything anew, and enters the mode unless the way is plain. It returns its
            result, and whether it certainly needed the mode; if it did not, and the mode was only
            expected, it raises ``HoldingUnneeded``.
        programs: Those of the routine, where calls are noted; None of calls that are not.

    Cost:
        A copy of the state of the random generator, some two microseconds; the part of a call
        before its first copy or inner gradient once more, where it was not expected.
    """
    noted = programs if programs is not None else {}
    before = torch.default_generator.get_state()
    there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def draw_again() -> None:
        torch.default_generator.set_state(before)
        if there is not None:
            torch.cuda.set_rng_state(there, device)

    if noted.get(HOLDING, 0) >= _SURE:
        try:
            return call(Way.EXPECTED)[0]
        except HoldingUnneeded:
            noted[HOLDING] = 0
            draw_again()
    _WATCHED.append(parameters)
    try:
        return call(Way.PLAIN)[0]
    except (RuntimeError, HoldingWanted) as error:
        if not wants_holding(error):
            raise
    finally:
        _WATCHED.pop()
    draw_again()
    found, is_sure = call(Way.NEEDED)
    noted[HOLDING] = noted.get(HOLDING, 0) + 1 if is_sure else 0
    return found
