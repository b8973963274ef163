"""Compares second derivatives of a step, and derivatives of its update, with finite differences.

In float64, where a wrong formula is told from a kink, on few examples.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.errors import EngineError, UndifferentiableError, WitnessError
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.number_format import in_format
from engine.routine.routine import Routine
from engine.step.missing_derivatives import named_refusals
from engine.types import State
from engine.witness.culprits import culprit, where_to_look
from engine.witness.derivatives.few_examples import FewExamples, Here
from engine.witness.derivatives.updates import compare_update, steps_to_compare
from engine.witness.finite_differences import (
    COARSE_LIMIT,
    LIMIT,
    Curvature,
    compare,
    error_in_format,
    not_settled,
)
from engine.witness.lines import first_line
from engine.witness.twins import exact, exact_run, exact_state

_LEAST, _NORMALIZED = 2, 3
"""Examples that are compared at least: of two, batch normalization makes plus and minus one."""

_SMALL = 16
"""Of smaller batches, those of large models, and at later steps, one example is compared."""

_NUMBERS, _PER_INPUT = 1 << 17, 32
"""More examples are compared while parameters, and so many for each number of an input, are few:
there it is calls that cost, not numbers."""


def _how_many(routine: Routine, here: Here) -> int:
    """Return how many examples cost hardly more than two."""
    one = routine.batch_of(here.term.indices[:1])
    inputs = sum(leaf.numel() for leaf in tree_leaves(one) if isinstance(leaf, Tensor))
    many = _NUMBERS // (routine.layout.size + _PER_INPUT * inputs)
    whole = len(here.term.indices)
    return min(whole, max(1 if whole < _SMALL or here.is_late else _LEAST, many))


def compare_derivatives(routine: Routine, here: Here) -> tuple[float | None, str]:
    """Compare the second derivative of a step's loss, and the first one of its update.

    Args:
        routine: The run.
        here: The step.

    Returns:
        The relative error of the second derivative, or None; and what was not compared, and why.

    Raises:
        WitnessError: If one of them is wrong; names the module, where that is known.
        UndifferentiableError: If there is no second derivative.

    Cost:
        Four gradients of two examples in float64 and two in the run's own format, or of more where
        they are small, and two updates; once or twice more where a loss depends on others or wants
        all of its batch.
    """
    curvature, note = compare_loss(routine, here)
    return curvature, " ".join(each for each in (note, compare_step_update(routine, here)) if each)


def compare_loss(routine: Routine, here: Here) -> tuple[float | None, str]:
    """Compare the second derivative of a step's loss; see ``compare_derivatives``."""
    try:
        try:
            found, twin = _in_double(routine, here, _second_derivative)
        except UndifferentiableError:
            raise
        except Exception:  # e.g. a loss that insists on float32
            if routine.layout.dtype == torch.float64:
                raise
            return _compare_coarsely(routine, here)
    except EngineError:
        raise
    except Exception as error:
        return None, f"The second derivative was not compared: {first_line(error)}"
    if not found.error <= LIMIT and routine.layout.dtype == torch.float64:
        # Perhaps a part of it is rounded to float32 by the model itself, as of a softmax.
        with suppress(Exception):
            again = _second_derivative(in_format(routine, torch.float64), here)
            found = again if again.error <= LIMIT else found
    if found.is_wrong:
        raise _refusal(found, _blame(twin, here))
    if found.in_format:
        raise WitnessError(
            f"The second derivative of the loss is off by {found.in_format:.1e} from that in "
            "float64, with the same parameters and examples, so a part of it is computed in "
            f"another way in the run's own number format. {_blame(twin, here)}."
        )
    if not found.error <= LIMIT:  # NaN too: nothing was learned of it, and the result says so
        return None, (
            "The second derivative was not compared: finite differences do not settle, as where "
            "the loss has kinks, bends too strongly (many normalizations of few numbers each) or "
            "is not finite."
        )
    return found.error, ""


def _compare_coarsely(routine: Routine, here: Here) -> tuple[float | None, str]:
    """Compare in the run's own format, where distances are so large that kinks lie within them.

    So it refuses only what a module does by itself, which is compared in float64.
    """
    found = _second_derivative(routine, here, coarse=True)
    if found.error <= COARSE_LIMIT:
        return found.error, (
            "It was compared in the run's own number format, because the loss cannot be called in "
            "float64, and would not notice less than some percent."
        )
    name = _culprit(routine, here, coarse=True) if found.is_wrong else None
    if name is not None:
        raise _refusal(found, _blame(routine, here, name))
    return None, (
        "The second derivative was not compared: the loss cannot be called in float64, and in the "
        "run's own number format finite differences do not settle."
    )


def _refusal(found: Curvature, where: str) -> WitnessError:
    return WitnessError(
        f"The second derivative of the loss is off by {found.error:.1e} from finite differences of "
        f"its gradient. {where}."
    )


def compare_step_update(routine: Routine, here: Here) -> str:
    """Refuse an update whose derivative is wrong; return what was not compared, and why."""
    try:
        found, _ = _in_double(routine, here, _update)
    except EngineError:
        raise
    except Exception as error:
        return f"The derivative of the update was not compared: {first_line(error)}"
    if found.is_wrong:
        advance = "" if routine.own is None else ", or the problem's advance,"
        raise WitnessError(
            f"The update of optimizer {routine.optimizer.name!r}{advance} has a derivative that is "
            f"off by {found.error:.1e} from finite differences: a part of it is cut out of the "
            "graph. Look for a detach(), .data, item() or no_grad() in it."
        )
    return not_settled("The derivative of the update", found)


def _in_double(
    routine: Routine, here: Here, compared: Callable[[Routine, Here], Curvature]
) -> tuple[Curvature, Routine]:
    """Compare in float64, in the run itself or in a short one that was made for it."""
    is_exact = routine.layout.dtype == torch.float64
    if is_exact or routine.own is None:  # which moves by the run's own examples
        try:
            return compared(routine, here), routine
        except UndifferentiableError:
            raise
        except Exception:  # e.g. a scripted module, which holds float32 where nobody converts
            if is_exact:
                raise
    twin = exact_run(routine)
    return compared(twin, _in_twin(twin, here)), twin


def _second_derivative(routine: Routine, here: Here, *, coarse: bool = False) -> Curvature:
    state = with_buffers_traced(here.state if coarse else exact_state(here.state))
    with routine.reading(state), routine.binding.keeping(), named_refusals(here.step):
        whole = len(here.term.indices)
        if here.is_whole or routine.own is not None:  # which may have a row for each example
            return _product(routine, here, state, whole, coarse=coarse)
        few = _how_many(routine, here)
        if routine.statistics is None and here.losses.any():  # none where nobody knows them
            # Another loss alone, or code that does not know what to do with so few.
            with suppress(Exception):
                return _product(routine, here, state, few, alone=True, coarse=coarse)
            few = min(max(few, _LEAST), whole)
        else:
            few = min(max(few, _NORMALIZED), whole)
        with suppress(Exception):
            return _product(routine, here, state, few, coarse=coarse)
        return _product(routine, here, state, whole, coarse=coarse)


def with_buffers_traced(state: State) -> State:
    """Return a state whose buffers carry a graph, as they do where a step is pulled back."""
    return {n: row.detach().requires_grad_() if n == BUFFERS else row for n, row in state.items()}


def _product(
    routine: Routine,
    here: Here,
    state: State,
    number: int,
    *,
    alone: bool = False,
    coarse: bool = False,
) -> Curvature:
    few = FewExamples(routine, here, number, alone=alone, coarse=coarse)
    row, everywhere = state["params"].detach(), routine.shapes_start
    told: dict[str, Any] = {"everywhere": everywhere, "moved": here.moved, "coarse": coarse}
    # A hook may lose how the weight of an example moves the gradient, and nothing else.
    told["besides"] = [few.weights]
    found = compare(lambda rows: few(*rows), [row], **told)
    if here.is_whole and not found.is_wrong:  # asked once; what is lost may be across a direction
        again = compare(lambda rows: few(*rows), [row], seed=1, **told)
        found = max(found, again, key=lambda each: (each.is_wrong, _error(each)))
    if coarse or here.is_late or routine.layout.dtype == torch.float64 or not found.error <= LIMIT:
        return found
    own, row = FewExamples(routine, here, number, coarse=True), here.state["params"].detach()
    with routine.reading(with_buffers_traced(here.state)):
        off = error_in_format(
            lambda rows: own(rows[0]), [row], found.products, everywhere=everywhere
        )
    return replace(found, in_format=off)


def _update(routine: Routine, here: Here) -> Curvature:
    worst = Curvature(0.0, False)
    with (
        routine.reading(exact_state(here.state)),
        routine.binding.keeping(),
        named_refusals(here.step),
    ):
        steps = [here.step] if here.is_late else steps_to_compare(routine, here.step)
        for step in steps:
            found = compare_update(
                routine, here.after, here.gradient, here.z, step, moves=here.moves
            )
            if found.is_wrong:
                return found
            worst = max(worst, found, key=_error)
    return worst


def _error(found: Curvature) -> float:
    return math.inf if math.isnan(found.error) else found.error


def _in_twin(twin: Routine, here: Here) -> Here:
    """Return the same place in a run of fewer examples, which draws others."""
    step = min(here.step, twin.num_steps - 1)
    term = next(twin.terms(step))
    z = {name: exact(tensor) for name, tensor in twin.point().items()}
    losses = torch.zeros(len(term.indices))
    return replace(here, term=term, losses=losses, step=step, z=z)


def _culprit(twin: Routine, here: Here, *, coarse: bool = False) -> str | None:
    if not coarse:
        twin = twin if twin.layout.dtype == torch.float64 else exact_run(twin)
        here = _in_twin(twin, here)
    state = here.state if coarse else exact_state(here.state)
    return culprit(twin, state, _loss_of_few(twin, here, state, coarse=coarse))


def _blame(routine: Routine, here: Here, name: str | None = None) -> str:
    """Say which module is to blame, if none was named yet, and which lines."""
    if name is None:
        with suppress(Exception):  # which would hide what is wrong
            name = _culprit(routine, here)
    state = here.state

    def loss() -> Tensor:
        with routine.reading(state), routine.binding.keeping(), torch.enable_grad():
            return _loss_of_few(routine, here, state, coarse=True)()

    return where_to_look(name, loss)


def _loss_of_few(
    routine: Routine, here: Here, state: State, *, coarse: bool = False
) -> Callable[[], Tensor]:
    whole = len(here.term.indices)

    def loss(number: int = min(_NORMALIZED, whole)) -> Tensor:
        few = FewExamples(routine, here, number, coarse=coarse)
        return few(state["params"].detach().requires_grad_())

    def loss_or_whole() -> Tensor:
        with suppress(Exception):  # a loss that wants all of its batch
            return loss()
        return loss(whole)

    return loss_or_whole
