"""The fastest way to reverse the steps of a run, chosen on its own first one."""

import logging
import time

from engine.errors import EngineError
from engine.recipes.replay import VjpMode
from engine.routine.routine import Routine
from engine.step.compiled import CompiledVjp
from engine.step.products import split
from engine.step.reference import StepVjp, step_vjp
from engine.step.two_stage import TwoStageVjp, pull_forward
from engine.types import Metaparams, State

_logger = logging.getLogger(__name__)

COMPILE_SECONDS = 20.0
"""What compiling takes at least; measured 25 s for a net of two layers."""

LARGEST_GAIN = 0.4
"""Share of a product that compiling was ever seen to save, rounded up."""


class MeasuredVjp:
    """A ``StepVjp`` that tries the others on the first step it reverses, and keeps the fastest.

    Compiling is not tried where even the largest gain would not pay for it.

    Args:
        num_uses: Steps that will be reversed.
    """

    def __init__(self, num_uses: int) -> None:
        self._num_uses = num_uses
        self._ways: dict[VjpMode, StepVjp] = {
            VjpMode.REVERSE_OVER_REVERSE: step_vjp,
            VjpMode.FORWARD_OVER_REVERSE: TwoStageVjp(pull_forward),
            VjpMode.COMPILED: CompiledVjp(),
        }

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
        chosen = routine.programs.get("fastest")
        if chosen is None and (len(split(cotangent)) > 1 or len(list(routine.terms(step))) > 1):
            chosen = VjpMode.REVERSE_OVER_REVERSE  # not a step to measure: see CompiledVjp
        elif chosen is None:
            chosen = self._measure(routine, state, z, step, cotangent)
            routine.programs["fastest"] = chosen
        return self._ways[chosen](routine, state, z, step, cotangent, to_state=to_state)

    def _measure(
        self, routine: Routine, state: State, z: Metaparams, step: int, cotangent: State
    ) -> VjpMode:
        seconds: dict[VjpMode, float] = {}
        for mode, way in self._ways.items():
            reference = seconds.get(VjpMode.REVERSE_OVER_REVERSE, 0.0)
            if mode is VjpMode.COMPILED:
                gain = self._num_uses * reference * LARGEST_GAIN
                if gain < COMPILE_SECONDS:
                    _logger.info(
                        "The product of a step is not compiled: %d products of %.1f ms would be "
                        "at most %.1f s faster together, and compiling takes over %.0f s.",
                        *(self._num_uses, 1e3 * reference, gain, COMPILE_SECONDS),
                    )
                    continue
            try:
                for _ in range(3):  # compiles, is compared with the reference, and warms up
                    way(routine, state, z, step, cotangent)
            except EngineError:
                if mode is VjpMode.REVERSE_OVER_REVERSE:
                    raise
                continue
            rounds = []
            for _ in range(3):
                started = time.perf_counter()
                adjoint, _ = way(routine, state, z, step, cotangent)
                float(adjoint["params"][0])  # waits for the device
                rounds.append(time.perf_counter() - started)
            seconds[mode] = min(rounds)
        fastest = min(seconds, key=seconds.__getitem__)
        measured = ", ".join(f"{mode} {1e3 * took:.1f} ms" for mode, took in seconds.items())
        _logger.info("Steps are reversed by %s; measured: %s.", fastest, measured)
        return fastest
