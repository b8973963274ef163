"""The fastest way to reverse the steps of a run, chosen on its own first one."""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from engine.errors import EngineError
from engine.recipes.replay import VjpMode
from engine.routine.routine import Routine
from engine.step.batched_outputs import BatchedPull
from engine.step.compiled import CompiledVjp, is_refused
from engine.step.products import split
from engine.step.programs.compile_notes import CompileNote, keep_note, read_note
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


Fits = Callable[[Routine, State, Metaparams, int, int], bool]
"""Says of (run, s_t, z, t, K) whether K graphs of the step fit into the memory."""


class MeasuredVjp:
    """A ``StepVjp`` that measures the ways on its first step, and keeps to the fastest.

    Compiling is tried only if it is expected to save more time than it takes. The expectation comes
    from the note of an earlier process on this machine, else from what graphs of this size usually
    take.

    Several cotangents at once are another product with two ways of its own: one after the other, or
    all in one pass, which needs the memory of all of them.

    Args:
        num_uses: Steps that will be reversed.
        fits: Says whether so many graphs of a step fit into the memory allowed; without it several
            cotangents are never pulled in one pass.
    """

    def __init__(self, num_uses: int, fits: Fits | None = None) -> None:
        self._num_uses, self._fits = num_uses, fits
        self._ways: dict[VjpMode, StepVjp] = {
            VjpMode.REVERSE_OVER_REVERSE: step_vjp,
            VjpMode.FORWARD_OVER_REVERSE: TwoStageVjp(pull_forward),
            VjpMode.COMPILED: CompiledVjp(),
        }
        self._together = BatchedPull()
        self._ways_of_several: dict[VjpMode, StepVjp] = {
            VjpMode.REVERSE_OVER_REVERSE: step_vjp,
            VjpMode.BATCHED: partial(step_vjp, pull=self._together),
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
        count = len(split(cotangent))
        ways = self._ways if count == 1 else self._ways_of_several
        chosen = routine.programs.get(fastest_of(count))
        if chosen is None and len(list(routine.terms(step))) > 1:
            chosen = VjpMode.REVERSE_OVER_REVERSE  # not a step to measure: see CompiledVjp
        elif chosen is None:
            chosen = self._measure(ways, routine, state, z, step, cotangent)
            routine.programs[fastest_of(count)] = chosen
        return ways[chosen](routine, state, z, step, cotangent, to_state=to_state)

    def _measure(
        self,
        ways: Mapping[VjpMode, StepVjp],
        routine: Routine,
        state: State,
        z: Metaparams,
        step: int,
        cotangent: State,
    ) -> VjpMode:
        count = len(split(cotangent))
        seconds: dict[VjpMode, float] = {}
        for mode, way in ways.items():
            reference = seconds.get(VjpMode.REVERSE_OVER_REVERSE, 0.0)
            if mode is VjpMode.COMPILED and not self._may_pay(routine, state, z, step, reference):
                continue
            if mode is VjpMode.BATCHED and not self._has_room(routine, state, z, step, count):
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
                float(adjoint["params"].reshape(-1)[0])  # waits for the device
                rounds.append(time.perf_counter() - started)
            if mode is VjpMode.BATCHED and self._together.is_refused:
                continue  # it is the reference by now
            seconds[mode] = min(rounds)
            if mode is VjpMode.COMPILED and not is_refused(routine):
                keep_note(routine, waited, seconds[mode] / reference)
        fastest = min(seconds, key=seconds.__getitem__)
        measured = ", ".join(f"{mode} {1e3 * took:.1f} ms" for mode, took in seconds.items())
        of = f" for {count} outputs" if count > 1 else ""
        _logger.info("Steps are reversed by %s%s; measured: %s.", fastest, of, measured)
        return fastest

    def _has_room(
        self, routine: Routine, state: State, z: Metaparams, step: int, count: int
    ) -> bool:
        """Say whether several cotangents may be pulled in one pass."""
        whole = routine.piece is None and routine.shards == 1 and routine.own is None
        return whole and self._fits is not None and self._fits(routine, state, z, step, count)

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


def fastest_of(count: int) -> str:
    """Return where a routine keeps which way is the fastest for so many cotangents."""
    return "fastest" if count == 1 else f"fastest of {count}"


def expected_gain(routine: Routine, note: CompileNote | None) -> float:
    """Return the share of a product that compiling saves; below 0 if it was slower."""
    return GAIN.get(routine.device.type, LARGEST_GAIN) if note is None else 1 - note.share


def expected_wait(note: CompileNote | None, num_nodes: int) -> float:
    """Return the seconds that a compiled product is waited for.

    Args:
        note: Note of earlier processes, whose programs torch has kept.
        num_nodes: Number of nodes of the graph of a step's gradient, which count where there is no
            note.
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
