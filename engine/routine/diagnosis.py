"""Errors of the user's own code as one message: which function failed, on what, and why."""

import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError, EngineError, UndifferentiableError
from engine.routine.coupled_loss import coupled
from engine.routine.loss_terms import Term, one_each
from engine.routine.module.buffers.batch_norm import without_buffers
from engine.routine.optimizer import refuse_other_tensors
from engine.routine.outputs import MeanLoss
from engine.routine.routine import Routine
from engine.types import Output, State


@contextmanager
def _explained(explain: Callable[[Exception], None]) -> Iterator[None]:
    """Hand errors that are not the engine's own to a function, which may raise a better one."""
    try:
        yield
    except (EngineError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        explain(error)
        raise


def asked_rightly(routine: Routine, outputs: Sequence[Output]) -> AbstractContextManager[None]:
    """Turn errors of the loss, the output or the examples inside the block into one message.

    Only after a failure are the user's functions called one by one, so that an error of the engine
    is not blamed on them.

    Raises:
        ConfigurationError: Names the part that failed, its line, and what helps.
    """

    def explain(error: Exception) -> None:
        _diagnose(routine, outputs, error)
        if _is_theirs(error):
            what = "A call of your code fails, and goes well when it is made again"
            raise user_code_error(what, error, _AGAIN) from error

    return _explained(explain)


def told_while_training() -> AbstractContextManager[None]:
    """Turn an error that the user's own code raises in a later step into one message.

    Raises:
        ConfigurationError: Names the error, the line, and what helps.
    """
    return _explained(_tell_later)


def told_by_witness() -> AbstractContextManager[None]:
    """Turn an error that the user's own code raises in a call beside the first ones into a message.

    Raises:
        ConfigurationError: Names the error, the line, and what helps.
    """
    return _explained(_tell_again)


def _tell_again(error: Exception) -> None:
    if _line(error):
        what = "The first calls of your code went well, and a later one fails"
        raise user_code_error(what, error, _AGAIN) from error


def _tell_later(error: Exception) -> None:
    if _is_theirs(error):
        what = "The first step went well, and a later one fails in your code"
        raise user_code_error(what, error, _LATER) from error


def _diagnose(routine: Routine, outputs: Sequence[Output], error: Exception) -> None:
    if "backward through the graph a second time" in str(error):
        raise ConfigurationError(
            "The graph of the loss or of the output is gone: it calls backward() on what it "
            "returns, or keeps a part of a graph for the next call. Return the losses alone; the "
            "engine differentiates them, and its optimizer takes the step."
        ) from error
    term = next(routine.terms(0))
    params = routine.initial_state()["params"].detach().requires_grad_()
    state = {**routine.initial_state(), "params": params}
    with torch.enable_grad():
        found, failure = _attempt(lambda: routine.loss_inputs(term, routine.point(), 0))
        if failure is not None:
            raise user_code_error("The batch of step 0 cannot be made", failure, _SHAPE) from error
        batch, given = found

        def loss(model: nn.Module) -> Any:  # noqa: ANN401 (whatever the loss returns)
            return routine.loss(model, batch, **given)  # pyright: ignore[reportCallIssue] (checked when made)

        with routine.reading(state), routine.seeded(term, 0):
            found, failure = _attempt(lambda: routine.call(loss, params, training=True))
        if failure is not None:
            rule = _COPY if _works_on_given(routine, term, loss) else _LOSS
            raise user_code_error("The loss fails on the batch of step 0", failure, rule) from error
        if not isinstance(found, Tensor) and coupled(routine.loss) is None:
            one_each(found, len(term.indices))
        _diagnose_update(routine, state, error)
        if routine.own is not None:
            _, failure = _attempt(lambda: routine.moved_own(state, params, routine.point(), 0))
            if failure is not None:
                raise user_code_error("advance fails after step 0", failure, _ADVANCE) from error
        for output in outputs:
            _, failure = _attempt(lambda o=output: routine.evaluate(o, state))
            if failure is not None:
                of_losses = isinstance(output, MeanLoss)
                what = "The loss fails on held-out examples" if of_losses else _FAILED_OUTPUT
                raise user_code_error(what, failure, HELD_OUT if of_losses else _OUTPUT) from error


def _diagnose_update(routine: Routine, state: State, error: Exception) -> None:
    """Try the update of a user's own optimizer on a gradient of zeros, also with a graph."""
    optimizer = routine.optimizer
    if optimizer.update.__module__.partition(".")[0] == "engine":
        return

    def update(*, graph: bool) -> State:
        rows = {name: row.detach() for name, row in without_buffers(state).items()}
        rows = {n: row.requires_grad_(graph and row.is_floating_point()) for n, row in rows.items()}
        gradient = torch.zeros_like(rows["params"], requires_grad=graph)
        with torch.set_grad_enabled(graph):
            return routine.update(rows, gradient, routine.point(), 0)

    what = f"The update of optimizer {optimizer.name!r} fails at step 0"
    found, failure = _attempt(lambda: update(graph=False))
    if failure is not None:
        raise user_code_error(what, failure, _UPDATE) from error
    refuse_other_tensors(optimizer, without_buffers(state), found, 0)
    _, failure = _attempt(lambda: update(graph=True))
    if failure is not None:
        raise user_code_error(f"{what}, where its derivative is wanted", failure, _PURE) from error


def _is_theirs(error: Exception) -> bool:
    """Say whether a function of the user raised an error, or something that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    called = any(frame.name in _CALLS and _ROUTINE in frame.filename for frame in frames)
    return called and bool(_line(error))


def _works_on_given(routine: Routine, term: Term, loss: Callable[[nn.Module], object]) -> bool:
    """Say whether a loss that fails on the run's copy goes well on the module itself."""
    given = routine.given
    if given is routine.model:
        return False
    buffers = [(buffer, buffer.detach().clone()) for buffer in given.buffers()]
    try:
        with routine.seeded(term, 0):
            return _attempt(lambda: loss(given))[1] is None
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


_SHAPE = "Look at the examples and at augment: both get a tensor of indices or a batch"
_LOSS = "A loss is called as loss(model, batch), with the batch as the examples give it"
_COPY = (
    "It goes well on the module that you handed in, of which the run trains a copy: a hook, or a "
    "function that the module keeps, holds the module itself or an object beside it. Let a hook "
    "write to the module that it is given, and let the loss read there"
)
_LATER = (
    "Look at the examples of that step: one may be of another shape, or out of range; and where "
    "counts are injected, up to 1,000 examples go through the model at once"
)
_AGAIN = (
    "Model, loss and output are called several times, with other tensors in the place of the "
    "parameters, in training and in evaluation, with a graph and without: let them keep nothing "
    "between two calls, and take parameters by name, not by id()"
)
_ADVANCE = (
    "It is called as advance(state, params, batch, step), with the parameters by name, and returns "
    "the next state"
)
_UPDATE = (
    "It is called as update(state, gradient, hyper, step), with flat tensors by name in state, and "
    "in hyper the learning_rate and the optimizer's own hyperparameters"
)
_PURE = "It has to be differentiable: let it return new tensors, and write into none (out=, add_())"
_FAILED_OUTPUT = "The output fails on the model"
_OUTPUT = "An output is called as output(model), in evaluation mode"

MIXED_FORMATS = ("same dtype", "expected scalar type", "expected dtype")
"""Torch's words where tensors of two number formats meet."""

_CURES = (
    (
        ("expected target dtype", "expected scalar type Long", "index tensor"),
        "Classes and indices are whole numbers of 64 bits: convert them with labels.long()",
    ),
    (
        ("be cast to the desired output type Long",),
        "This loss takes numbers with a fraction for labels: convert them with labels.float()",
    ),
    (
        MIXED_FORMATS,
        "Examples and model have different number formats: convert one of them, e.g. with "
        "x.to(torch.float64) or model.float()",
    ),
    (
        ("same device", "device type"),
        "Examples and model are on different devices: move both to one, e.g. with .to('cuda')",
    ),
    (
        ("does not require grad",),
        "Something in it was detached, or made under no_grad() or from another model's parameters",
    ),
    (
        ("out of bounds", "out of range"),
        "A class or an index is too large, or negative: of C classes they are 0 to C - 1",
    ),
    (
        ("deepcopy protocol",),
        "What is computed with a graph cannot be copied by deepcopy: clone it, x.clone(). A module "
        "can within a loss, but not where steps are compiled: use compile=False",
    ),
    (
        ("change requires_grad flags",),
        "What is computed has no flag of its own: write engine.stop_gradient(x) where a step shall "
        "hold it. Parameters can be frozen for a part of a loss, but not where steps are compiled: "
        "use compile=False",
    ),
    (("inference tensor",), "Tensors made in inference_mode() have no gradient: clone them"),
)


HELD_OUT = "It is given them as it is given those that are trained on: with the same columns"
"""The remedy for a loss that fails on examples of another split."""


def user_code_error(what: str, failure: Exception, rule: str) -> ConfigurationError:
    """Return an error of the user's own code as a message.

    Args:
        what: What failed, as a clause.
        failure: What it raised.
        rule: The remedy, as a clause, where none is known for what was raised.
    """
    text = str(failure).strip().partition("\n")[0] or "no words"
    cure = cure_of(text) or rule
    kind = UndifferentiableError if "does not require grad" in text else ConfigurationError
    return kind(f"{what} ({type(failure).__name__}: {text}){_line(failure)}. {cure}.")


def cure_of(text: str) -> str | None:
    """Return the remedy for an error that says this, as a clause; None where none is known."""
    return next((cure for words, cure in _CURES if any(word in text for word in words)), None)


def _line(failure: Exception) -> str:
    """Say where the user's own code stood."""
    for frame in reversed(traceback.extract_tb(failure.__traceback__)):
        pythons = frame.filename.startswith(_PYTHONS) and "site-packages" not in frame.filename
        if not pythons and not any(folder in frame.filename for folder in _NOT_THE_USERS):
            return f", at {frame.filename}, line {frame.lineno}"
    return ""


_PYTHONS = sysconfig.get_path("stdlib")
_ROUTINE = str(Path(__file__).parent)
_CALLS = ("call", "batch_of", "_batch", "update", "moved_own")
"""Where functions of the engine call those of the user."""

_NOT_THE_USERS = (
    str(Path(__file__).parents[1]),
    str(Path(torch.__file__).parent),
    "<@beartype(engine.",  # what tests check types by
)


def _attempt(action: Any) -> tuple[Any, Exception | None]:  # noqa: ANN401 (whatever is handed in)
    try:
        return action(), None
    except EngineError:
        raise
    except Exception as error:
        return None, error
