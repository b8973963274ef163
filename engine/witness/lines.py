"""Lines of the user's code that take a value out of the graph, or have no second derivative.

Looked for after a failure, because each call of torch is looked at, or anomaly mode is on. What
listens to whole runs, and notes places only, is ``engine.witness.cuts.places``.
"""

import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.routine.module.backward.own_derivative import is_kept
from engine.step.pulls import gradient_of
from engine.torch_modes import FunctionMode

NOT_THE_USERS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))

_FUNCTIONS = torch.autograd.function.__file__

_MOST = 3
"""Lines that a message names; a person reads no more."""


def user_line() -> str:
    """Return file and line of the user's code that is being run now; empty if there is none."""
    for frame in reversed(traceback.extract_stack()):
        if _is_the_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def raising_line(error: BaseException) -> str:
    """Return file and line of the user's code that raised an error; empty if none did."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_the_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _is_the_users(file: str) -> bool:
    return not file.startswith("<") and not any(folder in file for folder in NOT_THE_USERS)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or what it is called."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def failing_line(call: Callable[[], object]) -> tuple[str, str]:
    """Return the line of the user's code whose backward pass fails; empty if none is known.

    Args:
        call: Makes a graph and pulls something back through it, which fails.

    Returns:
        The line, and what torch says of the whole way there, its own functions among it.
    """
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly(check_nan=False):
                call()
        except Exception:
            text = "\n".join(str(each.message) for each in heard)
            return ([*_lines_in(text)] or [""])[-1], text
    return "", ""


def _lines_in(text: str) -> Iterator[str]:
    for file, line in re.findall(r'File "([^"]+)", line (\d+)', text):
        if _is_the_users(file):
            yield f"{file}:{line}"


def cuts(call: Callable[[], Tensor]) -> list[str]:
    """Name what takes values out of the graph while a function is called, and where.

    Args:
        call: Returns the loss, with a graph.

    Returns:
        Some of them, such as ``detach() at train.py:12``; empty if there are none.

    Cost:
        The call and its gradient, some times slower.
    """
    noted = _Cuts()
    with noted, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly(check_nan=False):
            loss = call()
            with suppress(Exception):  # of a backward pass that a user wrote
                _pull(loss)
    others, whole = _own_functions(loss)
    # One whose backward pass the engine does not take for a derivative is the last to be blamed.
    found = [*noted.found, *others] or whole
    return list(dict.fromkeys(found))[:_MOST]


def _pull(loss: Tensor) -> None:
    """Take the gradient of a loss, because hooks and custom functions cut in it, too."""
    waiting: list[Any] = [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        before = {each for each, _ in waiting.pop().next_functions if each} - seen
        seen |= before
        waiting += before
    for leaf in [node.variable for node in seen if hasattr(node, "variable")]:
        gradient_of(loss, leaf, create_graph=True)  # of torch's, a mode is told, and is off in it


CUTS = {
    Tensor.detach: "detach()",
    Tensor.detach_: "detach_()",
    Tensor.data.__get__: ".data",  # pyright: ignore[reportAttributeAccessIssue] (a descriptor)
    Tensor.item: "item()",
    Tensor.tolist: "tolist()",
    Tensor.numpy: "numpy()",
    Tensor.__float__: "float()",
    torch.fake_quantize_per_tensor_affine: "fake quantization",
    torch.fake_quantize_per_channel_affine: "fake quantization",
}
"""Functions that return what a tensor with a graph holds, without the graph, and their names."""


class _Cuts(FunctionMode):
    """Notes calls that return what a tensor with a graph holds, without the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``, and note it if it cuts."""
        result = function(*args, **kwargs)
        what = CUTS.get(function)
        if function is torch.autograd.grad and not kwargs.get("create_graph"):
            what = "autograd.grad() without create_graph=True"
        elif function is torch.sparse_coo_tensor:
            what = (
                "sparse_coo_tensor() of what is learned, where torch loses the second derivative "
                "(make a dense matrix, and call to_sparse() on it)"
            )
        elif what is None and not torch.is_grad_enabled() and _lacks_a_graph(result):
            what = "" if _in_own_function() else "no_grad()"
        if what and any(map(_has_graph, tree_leaves((args, kwargs)))):
            line = user_line()
            if line:
                self.found.append(f"{what} at {line}")
        return result


def _in_own_function() -> bool:
    """Say whether a custom function is being called, inside of which there is no graph."""
    return any(frame.filename == _FUNCTIONS for frame in traceback.extract_stack())


def _has_graph(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _lacks_a_graph(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad


def _own_functions(loss: Tensor) -> tuple[list[str], list[str]]:
    """Name the custom functions in a graph that notes its lines, and those kept with a graph."""
    waiting, seen = [loss.grad_fn], set()
    others: list[str] = []
    whole: list[str] = []
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if isinstance(node, torch.autograd.function.BackwardCFunction) and _is_own(node):
            lines = list(_lines_in("".join(node.metadata.get("traceback_", []))))
            name = type(node).__name__.removesuffix("Backward")
            if lines:
                (whole if is_kept(node) else others).append(
                    f"the custom function {name} at {lines[-1]}"
                )
    return others, whole


def _is_own(node: Any) -> bool:  # noqa: ANN401 (a node of autograd's graph)
    """Say whether a custom function is neither torch's nor the engine's."""
    module = getattr(type(node), "_forward_cls", type(node)).__module__
    return module.partition(".")[0] not in ("torch", "engine")
