"""Reversed steps beside those of the training, where something is kept between two steps."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from engine.errors import EngineError, WitnessError
from engine.numerics.determinism import deterministic
from engine.replay.interpreter import Sweep
from engine.routine.heard_updates import hearing_updates
from engine.routine.routine import Routine
from engine.step.compiled import CompiledVjp
from engine.step.step import plain_step
from engine.types import Metaparams, State
from engine.witness.memory.between_parts import refuse_kept_between_parts
from engine.witness.memory.between_steps import BetweenSteps, leads_elsewhere
from engine.witness.memory.disturbed import same_updates


class ReversedSteps:
    """Takes away what is kept before a step is reversed, and compares where the step leads.

    Args:
        routine: The run.
        z: Metaparameters.
        memory: What takes away.
        say: Is given what is wrong, in words, and may raise it.

    Cost:
        What ``memory`` takes. Where something is kept, norms of each reversed step, one state that
        is held, and what ``refuse_kept_between_parts`` takes; a plain step more where the graphs of
        steps are kept, steps are compiled or the problem has a state of its own, because what a
        product computes is not told there.
    """

    def __init__(
        self, routine: Routine, z: Metaparams, memory: BetweenSteps, say: Callable[[str], None]
    ) -> None:
        self._routine, self._z, self._memory, self._say = routine, z, memory, say
        self._same = same_updates(routine, say)
        self._after: tuple[int, State] = (-1, {})

    def before(self, step: int, sweep: Sweep) -> None:
        """Take away what is kept, and compare a step whose product tells nothing of it."""
        routine, memory, state = self._routine, self._memory, sweep.before(step)
        if self._after[0] != step + 1:
            is_end = step == routine.num_steps - 1 and bool(sweep.final)
            after: State = sweep.final if is_end else {}
            # A plain step, only where it would tell something.
            if not is_end and (memory.keeps or self._same is not None):
                after = sweep.after(routine, self._z, step)
            self._after = (step + 1, after)
        memory.before(state, step)
        if memory.keeps:
            try:
                refuse_kept_between_parts(routine, state, self._z, step)
            except WitnessError as error:
                self._say(str(error))
        is_untold = step in sweep.graphs or isinstance(sweep.vjp, CompiledVjp)
        if memory.counts and (is_untold or routine.own is not None):
            self._compare_plain(step, state)

    @contextmanager
    def reversing(self, step: int, sweep: Sweep) -> Iterator[None]:
        """Listen to what the product of a step makes of its state."""
        state, made = sweep.before(step), list[Mapping[str, Tensor]]()

        def hear(
            at: int,
            before: Mapping[str, Tensor],
            gradient: Tensor,
            following: Mapping[str, Tensor],
        ) -> None:
            if self._same is not None:
                self._same(at, before, gradient, following)
            made[:] = [following]  # the last one: a product may begin with a guess

        try:
            with hearing_updates(hear if self._memory.counts else None):
                yield
        except (EngineError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if self._memory.names:
                raise WitnessError(self._memory.fails(step, error)) from error
            raise
        states = (state, self._after[1])
        if made and leads_elsewhere(self._routine, states, made[0]):
            # Its kernels may be others than those that the run was trained with.
            self._compare_plain(step, state)
        self._after = (step, state if self._memory.counts else {})

    @contextmanager
    def running(self, steps: range, state: State) -> Iterator[None]:
        """Listen to steps that are run with the numbers of the run."""
        with self._memory.running(steps, state), hearing_updates(self._same):
            yield

    def _compare_plain(self, step: int, state: State) -> None:
        """Run a step as it was trained, and compare the bits of the state that it leads to."""
        if not self._after[1]:
            return
        with hearing_updates(None), deterministic():
            again, _ = plain_step(self._routine, state, self._z, step)
        after = self._after[1]
        if any(not torch.equal(row, after[name]) for name, row in again.items()):
            self._say(self._memory.leads_elsewhere(step))
