"""The fastest way to reverse the steps of a run, chosen on its own first one."""

import logging
import time

from engine.errors import EngineError
from engine.recipes.replay import VjpMode
from engine.routine.routine import Routine
from engine.step.compile_notes import CompileNote, keep_note, read_note
from engine.step.compiled import CompiledVjp, is_refused
from engine.step.products import split
from engine.step.reference import StepVjp, step_vjp
from engine.step.step import open_step
from engine.step.two_stage import TwoStageVjp, pull_forward
from engine.types import Metaparams, State

_logger = logging.getLogger(__name__)

FIRST_SECONDS, NODE_SECONDS = 20.0, 0.1
"""What compiling takes in a first process, for each node of the graph besides: 25 s were measured
for a net of two layers (47 nodes), 50 to 85 s for a GPT of four blocks (541) and a ResNet-9 (510).
"""

AGAIN = 0.15
"""Share of that in a process that finds the programs kept, before one was timed: 0.1 for a GPT,
whose step is read again, and 0.3 for a net of two layers, of which most is loading the compiler."""

GAIN = {"cpu": 0.2}
"""Share of a product that compiling saves, by device: 0.09 to 0.19 were measured on CPUs."""

LARGEST_GAIN = 0.4
"""The same elsewhere."""


class MeasuredVjp:
    """A ``StepVjp`` that tries the others on the first step it reverses, and keeps the fastest.

    Compiling is not tried where what it saves would not pay for it: what an earlier process noted
    on this machine, else what such a graph takes as a rule.

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
            if mode is VjpMode.COMPILED and not self._may_pay(routine, state, z, step, reference):
                continue
            started = time.perf_counter()
            try:
                way(routine, state, z, step, cotangent)
                waited = time.perf_counter() - started
                for _ in range(2):  # is compared with the reference again, and warms up
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
            if mode is VjpMode.COMPILED and not is_refused(routine):
                keep_note(routine, waited, seconds[mode] / reference)
        fastest = min(seconds, key=seconds.__getitem__)
        measured = ", ".join(f"{mode} {1e3 * took:.1f} ms" for mode, took in seconds.items())
        _logger.info("Steps are reversed by %s; measured: %s.", fastest, measured)
        return fastest

    def _may_pay(
        self, routine: Routine, state: State, z: Metaparams, step: int, reference: float
    ) -> bool:
        note = read_note(routine)
        gain = self._num_uses * reference * expected_gain(routine, note)
        wait = expected_wait(note, 0 if note else _num_nodes(routine, state, z, step))
        if gain < wait:
            _logger.info(
                "The product of a step is not compiled: %d products of %.1f ms would be about "
                "%.1f s faster together, and compiling takes about %.0f s.",
                *(self._num_uses, 1e3 * reference, gain, wait),
            )
        return gain >= wait


def expected_gain(routine: Routine, note: CompileNote | None) -> float:
    """Return the share of a product that compiling saves; below 0 if it was slower."""
    return GAIN.get(routine.device.type, LARGEST_GAIN) if note is None else 1 - note.share


def expected_wait(note: CompileNote | None, num_nodes: int) -> float:
    """Return the seconds that a compiled product is waited for.

    Args:
        note: Of earlier processes, whose programs torch has kept.
        num_nodes: Of the graph of a step's gradient, which count where there is no note.
    """
    if note is None:
        return FIRST_SECONDS + NODE_SECONDS * num_nodes
    return note.seconds * (AGAIN if note.times == 1 else 1)


def _num_nodes(routine: Routine, state: State, z: Metaparams, step: int) -> int:
    """Return the number of nodes in the graph of a step's gradient."""
    waiting, seen = [open_step(routine, state, z, step).gradient.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return len(seen)
