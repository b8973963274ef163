"""Survey of the operations of one step: kinks, low precision, dropout, second derivatives.

One gradient is taken, with its graph, while torch tells every operation that it carries out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional

from engine.preflight.verdict import Check, Verdict
from engine.routine.routine import Routine
from engine.step.coupling import note_of_shards
from engine.step.missing_derivatives import cure_of_operations
from engine.torch_modes import FunctionMode, OperationMode
from engine.witness.precision import LOW

KINKS = {
    "relu": "ReLU",
    "threshold": "ReLU",
    "leaky_relu": "leaky ReLU",
    "_prelu_kernel": "PReLU",
    "rrelu_with_noise": "RReLU",
    "hardtanh": "a hard limit",
    "hardswish": "hard swish",
    "hardsigmoid": "hard sigmoid",
    "max_pool2d_with_indices": "max pooling",
    "max_pool3d_with_indices": "max pooling",
    "adaptive_max_pool2d": "max pooling",
    "amax": "a maximum",
    "max": "a maximum",
    "min": "a minimum",
    "maximum": "a maximum",
    "minimum": "a minimum",
    "clamp": "a clamp",
    "clamp_min": "a clamp",
    "clamp_max": "a clamp",
    "abs": "an absolute value",
    "smooth_l1_loss": "the smooth L1 loss",
    "huber_loss": "the Huber loss",
    "topk": "a choice of the largest",
    "sort": "sorting",
    "round": "rounding",
}
"""Operations whose derivative jumps, by the words for them."""


@dataclass
class Census:
    """Operations that were seen in one step.

    Attributes:
        kinks: Words for operations with kinks.
        low_precision: Names of the number formats of fewer than 32 bits.
        active: Calls of dropout that dropped units.
        inert: Calls of dropout that dropped none, although their probability is not 0.
        missing: Operations without a second derivative.
    """

    kinks: set[str] = field(default_factory=set)
    low_precision: set[str] = field(default_factory=set)
    active: int = 0
    inert: int = 0
    missing: set[str] = field(default_factory=set)


class _Operations(OperationMode):
    def __init__(self, census: Census) -> None:
        super().__init__()
        self.census = census

    def on_operation(
        self, operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        result = operation(*args, **kwargs)
        name = operation.overloadpacket.__name__.rstrip("_")
        # The log-softmax of a loss takes a maximum inside its kernel, not as an operation.
        if name in KINKS:
            self.census.kinks.add(KINKS[name])
        if isinstance(result, Tensor) and result.dtype in LOW:
            self.census.low_precision.add(str(result.dtype).removeprefix("torch."))
        return result


class _Dropout(FunctionMode):
    _FUNCTIONS = {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
    }

    def __init__(self, census: Census) -> None:
        super().__init__()
        self.census = census

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        if function in self._FUNCTIONS:
            named = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            if named.get("p", 0.5) > 0:
                if named.get("training", True):
                    self.census.active += 1
                else:
                    self.census.inert += 1
        return function(*args, **kwargs)


def take_census(routine: Routine) -> Census:
    """Compute the gradient of step 0 once, and record its operations."""
    census = Census()
    params = routine.initial_state()["params"].detach().requires_grad_()
    term = routine.first_piece(next(routine.terms(0)))
    with routine.binding.keeping(), torch.enable_grad(), _Dropout(census), _Operations(census):
        loss = routine.term_loss(params, term, routine.point(), 0)
        (gradient,) = torch.autograd.grad(loss, params, create_graph=True)
    census.missing = set(_without_second_derivative(gradient))
    return census


def _without_second_derivative(gradient: Tensor) -> Iterator[str]:
    """Name the nodes of a gradient's graph that cannot be run."""
    waiting, seen = [gradient.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if node.name() in ("torch::autograd::NotImplemented", "torch::autograd::Error"):
            yield _words_of(node)


def _words_of(node: Any) -> str:  # noqa: ANN401 (a node of autograd's graph)
    """Run a node that can only fail, for its message, which names the operation."""
    for count in range(1, 9):  # as many gradients as the operation has outputs, which it hides
        try:
            node(*[torch.zeros(())] * count)
        except TypeError:
            continue
        except (RuntimeError, NotImplementedError) as error:
            text = str(error).splitlines()[0]
            if "once_differentiable" in text:
                return "a function marked once_differentiable"
            return text.removeprefix("derivative for ").removesuffix(" is not implemented")
    return node.name()


def check_second_derivatives(census: Census) -> Check:
    """Refuse operations that can be differentiated only once."""
    names = sorted(census.missing)
    if not names:
        return Check(
            name="second-derivatives",
            verdict=Verdict.PASS,
            value=0,
            limit=0,
            cause="Every operation of the step can be differentiated twice.",
        )
    return Check(
        name="second-derivatives",
        verdict=Verdict.REFUSE,
        value=len(names),
        limit=0,
        cause=f"No second derivative exists for {', '.join(names)}.",
        remedy=cure_of_operations(names),
    )


def check_dropout(census: Census) -> Check:
    """Warn about dropout that is switched off in training although its probability is above 0."""
    calls = census.active + census.inert
    share = census.active / calls if calls else None
    if census.inert:
        return Check(
            name="dropout",
            verdict=Verdict.WARN,
            value=share,
            limit=1,
            cause=f"{census.inert} of {calls} dropout layers drop nothing in a training step, "
            "although their probability is above 0: something calls eval() on the model.",
            remedy="Set the dropout to 0 if that is meant, or leave out eval() in the loss.",
            settings=("arguments.model.dropout",),
        )
    cause = (
        f"All {calls} dropout layers are active in a training step, seeded by the step."
        if calls
        else "The model has no dropout."
    )
    return Check(name="dropout", verdict=Verdict.PASS, value=share, limit=1, cause=cause)


def check_eps_root(routine: Routine) -> Check | None:
    """Warn if Adam or RMSprop divides by almost 0; None for other optimizers."""
    divisor = routine.optimizer.divisor
    if divisor is None:
        return None
    root, name = routine.optimizer.root, routine.optimizer.name
    named = {"name": "eps-root", "value": divisor, "limit": MIN_DIVISOR}
    said = f"With eps_root {root:g}, {name} divides a step by sqrt(eps_root) + eps = {divisor:.0e}"
    if divisor < MIN_DIVISOR:
        return Check(
            **named,
            verdict=Verdict.WARN,
            cause=f"{said} where a gradient is 0 (a dead unit, a row of an embedding that is not "
            "used). Where one moves away from 0 there, the metagradient is true and useless.",
            remedy="Use eps_root=1e-8 or more.",
            settings=("optimizer.eps_root",),
        )
    cause = f"{said} or more, which keeps its derivative of ordinary size."
    return Check(**named, verdict=Verdict.PASS, cause=cause)


def check_shards(routine: Routine) -> Check | None:
    """Warn of what is computed from the examples of one shard alone; None if nothing is."""
    said = note_of_shards(routine) if routine.shards > 1 else ""
    if not said:
        return None
    return Check(
        name="shards",
        verdict=Verdict.WARN,
        value=None,
        limit=None,
        cause=said,
        remedy="Leave shards out if this was not meant.",
        settings=("training.shards",),
    )


MIN_DIVISOR = 1e-5
"""Below it metagradients of float32 runs overflow or are noise."""
