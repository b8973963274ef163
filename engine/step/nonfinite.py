"""Where and why a number stops being finite: words for NaN gradients and infinite derivatives.

A NaN must not be taken for randomness (it is not equal to itself) or for chaos (an adjoint that
grows step by step). The message names the operation that has no finite derivative, and its place.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import NonFiniteError
from engine.routine.routine import Routine
from engine.step.step import open_step
from engine.types import Metaparams, State

_CURE = (
    "Square roots, norms, standard deviations, logarithms and powers below 2 have no finite "
    "derivatives at 0: add a small number inside them, e.g. (x * x + 1e-6).sqrt(). A torch.where "
    "around them does not help unless their input is replaced as well"
)

_CURES = {
    "logcumsumexp": "Torch's backward of logcumsumexp takes the logarithm of what comes back to it,"
    " whose derivative is infinite where that is 0, as of an example that the loss leaves out (a "
    "censored one). Write it as torch.where(allowed, scores, -torch.inf).logsumexp(1) over a square"
    " of who is compared with whom",
}
"""What helps where an operation has a finite derivative, and torch's way to it has none."""

BARE_ROOT = 1e-10
"""Below it the square root of an optimizer's second moments may have an infinite derivative."""


def refuse_nonfinite_step(
    routine: Routine, z: Metaparams, step: int, state: State, following: State
) -> None:
    """Refuse a step that leads from a finite loss to a state that is not finite.

    Raises:
        NonFiniteError: Names the parameter and the operation, or what the optimizer reads.
    """
    broken = [name for name, row in following.items() if not _is_finite(row)]
    if not broken:
        return
    place, operation = _gradient_fault(routine, z, step, state)
    if place:
        raise NonFiniteError(
            f"The loss of step {step} is finite, but its gradient is not, first at {place}"
            f"{_made_by(operation)}. {_cure(operation)}."
        )
    hyper = routine.hyperparameters(z, step)
    wrong = {name: value for name, value in hyper.items() if not _is_finite(value)}
    shown = ", ".join(f"{name} is {float(value)}" for name, value in wrong.items())
    raise NonFiniteError(
        f"The loss and the gradient of step {step} are finite, but the update of optimizer "
        f"{routine.optimizer.name!r} makes {broken[0]!r} infinite or NaN"
        f"{': ' + shown if shown else ''}. Give it finite settings, or look for a division by zero "
        "in its update."
    )


def refuse_nonfinite_product(
    routine: Routine,
    z: Metaparams,
    state: State,
    cotangent: State,
    product: tuple[State, Metaparams],
) -> None:
    """Refuse a first step whose derivative is not finite, although the step itself is.

    Raises:
        NonFiniteError: Names the operation, or the optimizer's square root.
    """
    step = 0
    if all(_is_finite(row) for part in product for row in part.values()):
        return
    with _lines_kept():
        graph = open_step(replace(routine, compile=False, piece=None), state, z, step)
        operation = _first_broken(graph.gradient, lambda: graph.pull(cotangent))
    if operation is None and _has_bare_root(routine):
        raise _bare_root(routine, f"Step {step}, pulled back,")
    raise NonFiniteError(
        f"Step {step} is finite, but its derivative is not: a second derivative is infinite or NaN"
        f"{_made_by(operation)}. {_cure(operation)}."
    )


def refuse_nonfinite_adjoint(routine: Routine, norms: Mapping[int, float], step: int) -> None:
    """Say why the adjoint stopped being finite when ``step`` was reversed.

    Args:
        routine: The run.
        norms: Norm of the adjoint by step, of the steps reversed before.
        step: The first, going backwards, at which it is not finite.

    Raises:
        NonFiniteError: Always.
    """
    name = f"The adjoint became infinite or NaN when step {step} was reversed, although the "
    before = [norm for at, norm in sorted(norms.items()) if at > step]
    if before and before[0] > torch.finfo(routine.layout.dtype).max ** 0.25 * max(before[-1], 1):
        raise NonFiniteError(
            f"{name}training itself is finite: going backwards it grew from {before[-1]:.1e} to "
            f"{before[0]:.1e} before. Training is chaotic: lower learning_rate, or use a "
            "smooth activation such as gelu.",
            settings=("training.learning_rate", "arguments.model.activation"),
        )
    if _has_bare_root(routine):
        raise _bare_root(routine, f"{name}training itself is finite. The adjoint")
    raise NonFiniteError(
        f"{name}step before it was finite and of ordinary size: a second derivative is infinite or "
        f"NaN in this one step. {_CURE}."
    )


def refuse_nonfinite_share(routine: Routine, name: str, total: Tensor) -> None:
    """Refuse a metagradient that is not finite although every adjoint is.

    Raises:
        NonFiniteError: Names the metaparameter.
    """
    wrong = int((~torch.isfinite(total)).sum())
    if not wrong:
        return
    subject = f"The metagradient of {name!r} holds {wrong} values that are infinite or NaN"
    if _has_bare_root(routine):
        raise _bare_root(routine, f"{subject}: the first step that reads it")
    raise NonFiniteError(
        f"{subject}, although the adjoint is finite. Look at how it enters the loss or the "
        "optimizer: a derivative by it is infinite where it stands."
    )


def _is_finite(value: float | Tensor) -> bool:
    if not isinstance(value, Tensor):
        return math.isfinite(value)
    return bool(torch.isfinite(value).all())


def _made_by(operation: str | None) -> str:
    return "" if operation is None else f", made by the derivative of {operation}"


def _cure(operation: str | None) -> str:
    return _CURES.get((operation or "").split(" ")[0], _CURE)


def _has_bare_root(routine: Routine) -> bool:
    root = routine.optimizer.root
    return root is not None and root < BARE_ROOT


def _bare_root(routine: Routine, subject: str) -> NonFiniteError:
    return NonFiniteError(
        f"{subject} meets the square root of the optimizer {routine.optimizer.name!r} with "
        f"eps_root={routine.optimizer.root:g}, whose derivative is infinite at 0, as of a gradient "
        "that does not vary. Use eps_root=1e-8 or more.",
        settings=("optimizer.eps_root",),
    )


def _gradient_fault(
    routine: Routine, z: Metaparams, step: int, state: State
) -> tuple[str, str | None]:
    """Return the first parameter whose gradient is not finite, and the operation; or no name."""
    params = state["params"].detach().requires_grad_()
    term = routine.first_piece(next(routine.terms(step)))
    found: list[Tensor] = []
    with _lines_kept(), torch.enable_grad(), routine.reading(state):
        loss = routine.term_loss(params, term, z, step)
        operation = _first_broken(loss, lambda: found.extend(torch.autograd.grad(loss, params)))
    wrong = (~torch.isfinite(found[0])).nonzero()
    return (routine.layout.locate(int(wrong[0])), operation) if len(wrong) else ("", None)


@contextmanager
def _lines_kept() -> Iterator[None]:
    """Let torch note for every operation inside the block which line of Python asked for it."""
    before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(*before)


def _first_broken(root: Tensor, pull: Callable[[], object]) -> str | None:
    """Pull a cotangent through a graph, and name the first operation that spoils a finite one."""
    broken: list[str] = []

    def note(node: Any) -> Callable[..., None]:  # noqa: ANN401 (a node of autograd's graph)
        def look(after: tuple[Any, ...], before: tuple[Any, ...]) -> None:
            given = [each for each in before if isinstance(each, Tensor)]
            made = [each for each in after if isinstance(each, Tensor)]
            if not broken and all(map(_is_finite, given)) and not all(map(_is_finite, made)):
                broken.append(_described(node))

        return look

    handles = [node.register_hook(note(node)) for node in _nodes(root)]
    try:
        pull()
    finally:
        for handle in handles:
            handle.remove()
    return broken[0] if broken else None


def _nodes(root: Tensor) -> Iterator[Any]:
    waiting, seen = [root.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node


def _described(node: Any) -> str:  # noqa: ANN401 (a node of autograd's graph)
    """Name the operation of the forward pass that a node belongs to, and the line that asked."""
    while "parent_" in node.metadata:  # a node of a backward pass
        node = node.metadata["parent_"]
    name = re.sub(r"(Backward)+\d*$", "", node.name().rsplit("::", 1)[-1])
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    for frame in reversed(node.metadata.get("traceback_", [])):
        place = frame.strip().splitlines()[0].removeprefix("File ")
        if not any(folder in place for folder in _NOT_THE_USERS):
            return f"{name} ({place})"
    return name


_NOT_THE_USERS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))
