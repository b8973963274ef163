"""The product of a step with the cotangents of K outputs in one pass.

The reference pulls them through one graph one after the other. Where each operation of the graph
has a batching rule, one pass with one more axis does the same with fewer and larger kernels. Its
sums run in another order, so it agrees with the reference to rounding: the first two products are
compared, and where they differ, or torch has no rule, the reference takes over with a warning.
"""

import logging

import torch

from engine.errors import UndifferentiableError
from engine.routine.routine import Routine
from engine.step.products import split
from engine.step.reference import step_vjp
from engine.step.step import open_step
from engine.types import Metaparams, State

_logger = logging.getLogger(__name__)

_COMPARED = 2  # a batch that was built in would agree once


class BatchedVjp:
    """A ``StepVjp`` that pulls several cotangents together; one alone goes the reference's way.

    Runs with a state of their own, and steps in pieces, go that way too.

    Cost:
        One step with its graph and K products as one; the memory of K. Measured in
        ``tests/bench/bench_outputs.py``.
    """

    def __init__(self) -> None:
        self._compared = 0
        self._is_refused = False

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
        """Pull cotangents back through one training step; see ``step_vjp``."""
        in_pieces = routine.piece is not None or routine.shards > 1 or routine.own is not None
        if self._is_refused or in_pieces or len(split(cotangent)) == 1:
            return step_vjp(routine, state, z, step, cotangent, to_state=to_state)
        if self._compared >= _COMPARED:
            return _together(routine, state, z, step, cotangent, to_state)
        expected = step_vjp(routine, state, z, step, cotangent, to_state=to_state)
        try:
            found = _together(routine, state, z, step, cotangent, to_state)
            obstacle = _difference(found, expected)
        except (RuntimeError, NotImplementedError, UndifferentiableError) as error:
            obstacle = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        self._compared += 1
        if obstacle is not None:
            self._is_refused = True
            _logger.warning(
                "The outputs are pulled back one after the other, by reverse-over-reverse: %s",
                obstacle,
            )
        return expected


def _together(
    routine: Routine, state: State, z: Metaparams, step: int, cotangent: State, to_state: bool
) -> tuple[State, Metaparams]:
    graph = open_step(routine, state, z, step)
    return graph.pull(cotangent, to_state=to_state, together=True)


def _difference(found: tuple[State, Metaparams], expected: tuple[State, Metaparams]) -> str | None:
    """Say which output differs by more than rounding; None if none does."""
    for part, reference in zip(found, expected, strict=True):
        if part.keys() != reference.keys():
            return f"there are shares of {sorted(part)}, not of {sorted(reference)}."
        for name, rows in reference.items():
            for i, row in enumerate(rows):
                error = float((part[name][i] - row).norm() / row.norm().clamp(min=1e-30))
                if not error < torch.finfo(row.dtype).eps ** 0.5:
                    return f"{name!r} of output {i} is off by {error:.1e}."
    return None
