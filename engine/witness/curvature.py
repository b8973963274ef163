"""Second derivatives of a step and derivatives of its update beside finite differences.

They are compared in float64, because float32 cannot tell a wrong formula from a kink, on few
examples.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import EngineError, UndifferentiableError, WitnessError
from engine.numerics.determinism import generator
from engine.routine.batch_norm import without_buffers
from engine.routine.number_format import SameNumbers, convert
from engine.routine.operations import without_checkpointing
from engine.routine.routine import Routine
from engine.step.products import entering, named_refusals
from engine.types import Metaparams, State
from engine.witness.culprits import culprit
from engine.witness.finite_differences import (
    LIMIT,
    Curvature,
    compare,
    compare_first,
    directions,
)
from engine.witness.twins import exact_run

_FEW, _FEW_NORMALIZED = 2, 4
"""Examples on which derivatives are compared. Of two, batch normalization makes plus and minus one,
whatever they are."""


class FewExamples:
    """The loss of step 0 over few examples, in float64, as a function of the flat parameters.

    The run's own module is called with float64 tensors in the place of its parameters; what else
    it holds is converted where it is used. So a run in float32 needs no second module.

    Args:
        routine: The run, in any format.
        z: Its metaparameters.
    """

    def __init__(self, routine: Routine, z: Metaparams) -> None:
        self._routine, term = routine, next(routine.terms(0))
        few = _FEW if routine.statistics is None else _FEW_NORMALIZED
        self._term = term if len(term.indices) <= few else term.cut(few)[0]
        self._is_exact = routine.layout.dtype == torch.float64
        batch, arguments = routine.loss_inputs(self._term, z, 0)
        self._batch = batch if self._is_exact else convert(batch, torch.float64)
        self._arguments = arguments

    def __call__(self, params: Tensor) -> Tensor:
        """Return the sum of the losses by B, a scalar; ``params`` has shape (params,)."""
        with self._routine.seeded(self._term, 0):
            losses = self._routine.call(self._losses, params, self._batch, training=True)
        return losses.sum() / self._routine.batch_size

    def _losses(self, model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 (any batch)
        loss: Callable[..., Tensor] = self._routine.loss
        with ExitStack() as stack:
            if not self._is_exact:
                stack.enter_context(SameNumbers(torch.float64))
                # What is checkpointed would be computed again outside of this block.
                stack.enter_context(without_checkpointing())
            return loss(model, batch, **self._arguments)


def compare_derivatives(routine: Routine, state: State, z: Metaparams) -> tuple[float | None, str]:
    """Compare the second derivative of a step's loss, and the first one of its update.

    Args:
        routine: The run.
        state: Where.
        z: Metaparameters.

    Returns:
        The relative error of the second derivative, or None and why it was not compared.

    Raises:
        WitnessError: If one of them is wrong; names the module, where that is known.
        UndifferentiableError: If there is no second derivative.

    Cost:
        Four gradients of two examples, or of four where a batch is normalized, in float64, and
        three updates.
    """
    twin = routine
    try:
        try:
            found, update = _compared(routine, state, z)
        except UndifferentiableError:
            raise
        except _NOT_COMPARED:  # e.g. a scripted module, which holds float32 where nobody converts
            if routine.layout.dtype == torch.float64:
                raise
            twin = exact_run(routine)
            found, update = _compared(twin, state, z)
    except UndifferentiableError:
        raise
    except _NOT_COMPARED as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"The second derivative was not compared: {words[0]}"
    if found.is_wrong:
        raise WitnessError(
            f"The second derivative of the loss is off by {found.error:.1e} from finite "
            f"differences of its gradient. {_culprit(twin, state, z)}."
        )
    if update.is_wrong:
        raise WitnessError(
            f"The update of optimizer {routine.optimizer.name!r} has a derivative that is off by "
            f"{update.error:.1e} from finite differences: a part of it is cut out of the graph. "
            "Look for a detach(), .data, item() or no_grad() in it."
        )
    if not found.error <= LIMIT:  # NaN too: nothing was learned of it, and the result says so
        return None, (
            "The second derivative was not compared: finite differences do not settle, as where "
            "the loss has kinks or is not finite."
        )
    return found.error, ""


_NOT_COMPARED = (EngineError, RuntimeError, NotImplementedError, TypeError, ValueError)


def _compared(routine: Routine, state: State, z: Metaparams) -> tuple[Curvature, Curvature]:
    point = {name: _exact(tensor) for name, tensor in z.items()}
    exact = {name: _exact(row) for name, row in state.items()}
    few = FewExamples(routine, z)
    with routine.reading(exact), routine.binding.kept(), named_refusals(0):
        found = compare(
            lambda leaves: few(leaves[0]), [exact["params"]], everywhere=routine.shapes_start
        )
    return found, _update(routine, exact, found.slopes[0], point)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def _update(routine: Routine, state: State, gradient: Tensor, z: Metaparams) -> Curvature:
    """Compare the derivative of the optimizer's update, where moments are not zero."""
    params = state["params"]
    with torch.no_grad():
        before = {"params": params, **routine.optimizer.init(params)}
        rows = without_buffers(routine.update(before, gradient, z, 0))
    leaves = entering(routine, z, 0)
    names, drawn = [*rows, "gradient", *leaves], generator(0, "update")
    weights = {name: directions(row, drawn) for name, row in rows.items()}

    def function(values: Sequence[Tensor]) -> Tensor:
        given = dict(zip(names, values, strict=True))
        following = routine.update(
            {name: given[name] for name in rows},
            given["gradient"],
            {**z, **{name: given[name] for name in leaves}},
            0,
        )
        return torch.stack([row.dot(weights[name]) for name, row in following.items()]).sum()

    return compare_first(function, [*rows.values(), gradient, *leaves.values()])


def _culprit(twin: Routine, state: State, z: Metaparams) -> str:
    if twin.layout.dtype != torch.float64:
        twin = exact_run(twin)
    few, exact = FewExamples(twin, z), {name: _exact(row) for name, row in state.items()}
    return culprit(twin, exact, lambda: few(exact["params"]))
