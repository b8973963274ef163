"""The product of a step as one compiled graph.

How z sets a step's inputs stays outside, so one program serves every segment and every outer
step. Dropout draws from torch's generators, seeded as in the plain step, so its masks are the same.

Nothing compiled is believed unseen: the first two products of a program are compared with the
reference's (two, because a batch that was built in agrees once), and where it differs or does not
compile, the reference takes over with a warning.
"""

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vjp

from engine.errors import UndifferentiableError
from engine.routine.routine import Routine
from engine.step.compiling import Inputs, compiled, make_loss, many_programs, named, step_inputs
from engine.step.products import entering, split
from engine.step.reference import difference, step_vjp
from engine.types import Metaparams, State

_logger = logging.getLogger(__name__)

Program = Callable[[State, Inputs, Inputs, State], tuple[State, Inputs]]
"""Maps (state, what z sets, all other inputs, cotangent) to lambda_t and z's cotangents."""

_NAME = "compiled product"
_COMPARED = 2  # products that are compared with the reference
_REFUSED = -1


class CompiledVjp:
    """A ``StepVjp`` that runs one compiled graph, or the reference where there is none.

    Steps with injected examples and several cotangents go the reference's way: the former are few,
    the latter share one graph there.

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
        key = f"{_NAME}, z: {', '.join(leaves) or 'none'}"
        several = len(split(cotangent)) > 1
        injected = len(list(routine.terms(step))) > 1
        compared = routine.programs.get(key, 0)
        if several or injected or compared == _REFUSED:
            return step_vjp(routine, state, z, step, cotangent, to_state=to_state)
        if compared >= _COMPARED:
            adjoint, shares = _compiled_product(routine, state, leaves, step, cotangent)
            return (adjoint if to_state else {}), shares
        expected = step_vjp(routine, state, z, step, cotangent)
        obstacle = (
            _try(routine, state, leaves, step, cotangent, expected)
            if routine.statistics is None and routine.own is None and not routine.skip_idle
            else "the run keeps running statistics of batch normalization, a state of its own, or "
            "count of what its steps leave out."
        )
        routine.programs[key] = compared + 1 if obstacle is None else _REFUSED
        if obstacle is not None:
            _logger.warning(
                "The product of a step is not compiled, and reverse-over-reverse used: %s", obstacle
            )
        return (expected[0] if to_state else {}), expected[1]


def is_refused(routine: Routine) -> bool:
    """Say whether a product of this routine did not compile, or was not the reference's."""
    made = (n for key, n in routine.programs.items() if key.startswith(_NAME))
    return any(number == _REFUSED for number in made)


def _try(
    routine: Routine,
    state: State,
    leaves: Metaparams,
    step: int,
    cotangent: State,
    expected: tuple[State, Metaparams],
) -> str | None:
    """Compile and compare; say what stands in the way, if anything."""
    started = time.perf_counter()
    try:
        found = _compiled_product(routine, state, leaves, step, cotangent)
    except UndifferentiableError:
        raise
    except (RuntimeError, OSError, ImportError, TypeError) as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    seconds = time.perf_counter() - started
    obstacle = difference(found, expected)
    if obstacle is not None:
        return obstacle
    _logger.info("A compiled product of a step agrees; it took %.1f s.", seconds)
    return None


def _compiled_product(
    routine: Routine, state: State, leaves: Metaparams, step: int, cotangent: State
) -> tuple[State, Metaparams]:
    if "product" not in routine.programs:
        routine.programs["product"] = compiled(_product(routine), routine)
    program: Program = routine.programs["product"]
    (term,) = routine.terms(step)
    with torch.enable_grad():
        inputs = step_inputs(routine, term, leaves, step)
    routine.modes.train()
    from_z = {name: value for name, value in inputs.items() if _depends_on_z(value)}
    others = {name: value for name, value in inputs.items() if name not in from_z}
    with routine.seeded(term, step), torch.no_grad(), many_programs():
        detached = {name: tensor.detach() for name, tensor in from_z.items()}
        adjoint, pulled = program(state, detached, others, cotangent)
    if routine.device.type == "cuda":  # a captured graph writes its next results in their place
        adjoint = {name: row.clone() for name, row in adjoint.items()}
        pulled = {name: row.clone() for name, row in pulled.items()}
    shares: Metaparams = {}
    if leaves and from_z:
        found = torch.autograd.grad(
            list(from_z.values()),
            list(leaves.values()),
            [pulled[name] for name in from_z],
            allow_unused=True,
        )
        shares = {n: t for n, t in zip(leaves, found, strict=True) if t is not None}
    return {name: adjoint[name] for name in state}, shares


def _depends_on_z(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _product(routine: Routine) -> Program:
    loss, update = make_loss(routine), routine.optimizer.update

    def product(
        state: State, from_z: Inputs, others: Inputs, cotangent: State
    ) -> tuple[State, Inputs]:
        def step(state: State, from_z: Inputs) -> State:
            inputs = {**others, **from_z}
            gradient = grad(loss)(state["params"], inputs)
            following = update(
                state, routine.hooked(gradient), named(inputs, "hyper "), inputs["step"]
            )
            return {name: following[name] for name in cotangent}

        _, pull, *_ = vjp(step, state, from_z)
        return pull(cotangent)

    return product
