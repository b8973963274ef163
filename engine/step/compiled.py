"""The product of a step as one compiled graph.

How z sets a step's inputs stays outside, so one program serves every segment and every outer
step. Dropout draws from torch's generators, seeded as in the plain step, so its masks are the same.

The first two products of a program are compared with those of the reference: two, because a program
with a batch built into it would agree once. If a product differs, or the code does not compile, the
reference takes over with a warning.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, vjp

from engine.errors import UndifferentiableError
from engine.routine.module.gradient_hooks import hooks_draw
from engine.routine.routine import Routine
from engine.step.products import entering, split
from engine.step.programs.captured import CapturedProgram, Part, Program
from engine.step.programs.compiling import (
    Inputs,
    keeps_for_itself,
    loss_at,
    make_loss,
    make_update,
    make_views,
    options,
    read_routine,
    reading,
    step_inputs,
    with_prefix,
)
from engine.step.reference import difference, step_vjp
from engine.types import Metaparams, State

_logger = logging.getLogger(__name__)

Product = tuple[State, Metaparams]

_REFUSED = "compiled products that are refused"
_COMPARED = "compiled products, compared"
_TIMES = 2  # that a product is compared with the reference's


class CompiledVjp:
    """A ``StepVjp`` that runs one compiled graph, or the reference where there is none.

    Steps with injected examples, and several cotangents at once, are reversed by the reference:
    such steps are few, and several cotangents share one graph there.

    Cost:
        Compiling takes half a minute to minutes, once for a routine, whatever its z. Measured in
        ``tests/bench/bench_step.py``.
    """

    def __call__(
        self,
        routine: Routine,
        state: State,
        z: Metaparams,
        step: int,
        cotangent: State,
        *,
        to_state: bool = True,
    ) -> tuple[State, Metaparams]:
        """Pull a cotangent back through one training step.

        See ``engine.step.reference.step_vjp``.
        """
        leaves = entering(routine, z, step)
        refused: set[tuple[str, ...]] = routine.programs.setdefault(_REFUSED, set())
        several = len(split(cotangent)) > 1
        injected = len(list(routine.terms(step))) > 1
        if several or injected or tuple(leaves) in refused:
            return step_vjp(routine, state, z, step, cotangent, to_state=to_state)
        found = _try(routine, state, z, leaves, step, cotangent)
        if isinstance(found, str):
            _logger.warning(
                "The product of a step is not compiled, and reverse-over-reverse used: %s", found
            )
            refused.add(tuple(leaves))
            return step_vjp(routine, state, z, step, cotangent, to_state=to_state)
        adjoint, shares = found
        return (adjoint if to_state else {}), shares


def is_refused(routine: Routine) -> bool:
    """Say whether a product of this routine did not compile, or was not the reference's."""
    return bool(routine.programs.get(_REFUSED))


def _try(
    routine: Routine, state: State, z: Metaparams, leaves: Metaparams, step: int, cotangent: State
) -> Product | str:
    """Return a product, compared with the reference if its program is new; or what hinders it."""
    if routine.statistics is not None or routine.own is not None or routine.skip_idle:
        return (
            "the run keeps running statistics of batch normalization, a state of its own, or "
            "count of what its steps leave out."
        )
    if routine.layout.complexes:
        return "the model has complex parameters, whose derivatives torch's compiler gets wrong."
    if _hooks_draw(routine):
        return "hooks of the parameters draw random numbers, which each step seeds."
    if keeps_for_itself(routine, z, step):
        return "the loss or the model keeps tensors of a call for itself."
    started = time.perf_counter()
    try:
        found, program = _compiled_product(routine, state, leaves, step, cotangent)
    except UndifferentiableError:
        raise
    except (RuntimeError, OSError, ImportError, TypeError) as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    seconds = time.perf_counter() - started
    compared: dict[Program, int] = routine.programs.setdefault(_COMPARED, {})
    times = compared.get(program, 0)
    if times == _TIMES:
        return found
    expected = step_vjp(routine, state, z, step, cotangent)
    obstacle = difference(found, expected)
    if obstacle is not None:
        return obstacle
    _logger.info("A compiled product of a step agrees; it took %.1f s.", seconds)
    compared[program] = times + 1
    return expected


def _hooks_draw(routine: Routine) -> bool:
    """Say whether hooks of the parameters draw random numbers; asked once for a routine."""
    if not routine.hooks:
        return False
    known = routine.programs
    if _DRAW not in known:
        given = routine.layout.flatten(routine.trainable)
        known[_DRAW] = hooks_draw(routine.hooks, routine.layout, torch.ones_like(given))
    return known[_DRAW]


def _compiled_product(
    routine: Routine, state: State, leaves: Metaparams, step: int, cotangent: State
) -> tuple[Product, Program]:
    product: CapturedProgram = routine.programs.get("product") or _product(routine)
    routine.programs["product"] = product
    (term,) = routine.terms(step)
    with torch.enable_grad():
        inputs = step_inputs(routine, term, leaves, step)
    from_z = {name: value for name, value in inputs.items() if _depends_on_z(value)}
    others = {name: value for name, value in inputs.items() if name not in from_z}
    states = {_STATE + name: row for name, row in state.items()}
    params = state["params"]
    read = {
        "loss": inputs,
        "views": {"params": params.detach().requires_grad_()},
        "update": {**inputs, **states, "gradient": params.new_empty(params.shape)},
    }
    sources = {**states, **{_FROM_Z + name: row.detach() for name, row in from_z.items()}}
    rows = {_COTANGENT + name: row.contiguous() for name, row in cotangent.items()}
    values = {**others, **sources, **rows}
    with reading(routine, params) as held, routine.seeded(term, step), torch.no_grad():
        pulled, program = product(read, held, values, tuple(sources))
    if routine.device.type == "cuda":  # a captured graph writes its next results in their place
        pulled = {name: row.clone() for name, row in pulled.items()}
    shares: Metaparams = {}
    if leaves and from_z:
        found = torch.autograd.grad(
            list(from_z.values()),
            list(leaves.values()),
            [pulled[_FROM_Z + name] for name in from_z],
            allow_unused=True,
        )
        shares = {n: t for n, t in zip(leaves, found, strict=True) if t is not None}
    return ({name: pulled[_STATE + name] for name in state}, shares), program


def _product(routine: Routine) -> CapturedProgram:
    read = read_routine(routine)
    parts = {"loss": make_loss(read), "views": make_views(read), "update": make_update(read)}
    return CapturedProgram(step_product, parts, options(routine), settled=("views",))


def _depends_on_z(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


_DRAW = "hooks draw"
"""Where a routine keeps whether they do, among what was measured of its step."""

_STATE, _FROM_Z, _COTANGENT = "state ", "from z ", "cotangent "
"""What stands before the names of a product's tensors; other inputs of the step have none."""


def step_product(parts: Mapping[str, Part], values: Inputs) -> Inputs:
    """Return the product of a step, as a whole of ``engine.step.programs.captured``."""
    sources = {n: row for n, row in values.items() if n.startswith((_STATE, _FROM_Z))}
    others = {n: value for n, value in values.items() if n not in sources}
    cotangent = with_prefix(values, _COTANGENT)

    def step(sources: Inputs) -> Inputs:
        inputs = {**others, **sources, **with_prefix(sources, _FROM_Z)}

        gradient = grad(partial(loss_at, parts, inputs))(sources[_STATE + "params"])
        following = parts["update"]({**inputs, "gradient": gradient})
        return {name: following[name] for name in cotangent}

    _, pull, *_ = vjp(step, sources)
    (pulled,) = pull(cotangent)
    return pulled
