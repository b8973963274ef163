"""What a run keeps between two steps, taken away before each step is reversed.

A replay passes through the same steps as the training, with the same numbers, so it writes what the
training wrote wherever that is kept, and whoever reads it reads a constant that nothing shows to
be one. So between a replay and the steps that are reversed after it, what is kept holds other
numbers, and each step that is reversed has to lead to the state that the training led to.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import itemgetter

import torch
from torch import Tensor

from engine.errors import ReplayMismatchError, words_of
from engine.numerics.determinism import deterministic, filling
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import Metaparams, State
from engine.witness.agreement import gradient_limit
from engine.witness.derivatives.updates import is_shipped
from engine.witness.memory.asked import in_words
from engine.witness.memory.disturbed import call_updates, disturb, memory_of
from engine.witness.memory.kept import KeptByFunctions
from engine.witness.memory.outside import OutsideWrites


class BetweenSteps:
    """Takes away what loss, module and update keep, before steps are reversed.

    One serves all segments of a run that one process reverses, the last one first.

    Args:
        routine: The run.
        z: Metaparameters.
        fresh: What they kept before any call; by default, what they kept when ``noting_memory`` was
            called, or keep now.

    Attributes:
        names: Of what they have written into, as far as it is known where they keep it.

    Cost:
        What ``disturb`` takes, once. After each replay a look at what the training wrote into; and
        of an update that a user wrote, one for each step of the replay, without a graph. Where
        something writes where nobody can put it back, all steps that are run are run once more.
    """

    def __init__(
        self, routine: Routine, z: Metaparams, fresh: KeptByFunctions | None = None
    ) -> None:
        self._routine, self._z = routine, z
        self._fresh = fresh or routine.programs.get(_FRESH) or memory_of(routine)
        self._own_update = not is_shipped(routine.optimizer)
        self._left: KeptByFunctions | None = None
        self._base: KeptByFunctions | None = None
        self._replayed: set[int] = set()
        self._first: tuple[int, State] = _NONE
        self._has_run = self._is_lost = False
        self._outside: OutsideWrites = routine.programs.get(_OUTSIDE) or OutsideWrites()
        self.names: list[str] = []

    @property
    def counts(self) -> bool:
        """Whether each reversed step is compared with its training.

        They keep something, or the states come from elsewhere, so that no replay told of it.
        """
        return self.keeps or self._own_update or not self._has_run

    @property
    def keeps(self) -> bool:
        """Whether anything is kept, as far as it is known."""
        return bool(self.names) or self._writes_outside

    @property
    def _writes_outside(self) -> bool:
        return self._fresh.is_open or self._outside.found or self._is_lost

    def training(self) -> AbstractContextManager[None]:
        """Return the context in which the run is trained, where that is not a part of the sweep."""
        return self._outside.noting()

    def running(self, steps: range, state: State) -> AbstractContextManager[None]:
        """Return the context in which steps are run with the numbers of the run, from a state."""
        self._replayed |= {*steps}
        self._first = min(self._first, (steps.start, state), key=itemgetter(0))
        self._has_run = True
        return self._outside.noting()

    def before(self, state: State, step: int) -> None:
        """Put other numbers into what is kept, if steps were run since that was done last.

        Args:
            state: s_t.
            step: t, which is reversed next.
        """
        replayed, self._replayed = sorted(self._replayed), set()
        first, self._first = self._first, _NONE
        if self._left is None:
            routine = self._routine
            is_whole = step == routine.num_steps - 1 or not replayed
            self._disturb(state, None if is_whole else replayed)
            if self._writes_outside:
                whole = (routine.first_step, routine.initial_state(self._z))
                self._run_elsewhere(whole if is_whole else first, step)
            return
        if not replayed:
            return
        if self._base is not None:
            self._base.put_back()
        if self._own_update:
            with filling(), deterministic(), torch.no_grad():
                call_updates(self._routine, state, self._z, replayed)
        if self._writes_outside:
            self._run_elsewhere(first, step)

    def _run_elsewhere(self, first: tuple[int, State], last: int) -> None:
        """Run steps from a state that is not the run's, which write other numbers outside."""
        start, state = first
        state = {**state, "params": 1.03 * state["params"].detach()}
        with suppress(Exception), filling(), deterministic():  # of code of the user's
            for step in range(start, last + 1):
                state, _ = plain_step(self._routine, state, self._z, step)

    def _disturb(self, state: State, replayed: list[int] | None) -> None:
        """Do it for the first time: for all steps, or those of a segment in the middle."""
        routine = self._routine
        self._left, written = memory_of(routine), self._fresh.written()
        self._is_lost = self._fresh.is_lost
        disturb(routine, state, self._z, (self._fresh, self._left), replayed)
        written |= self._fresh.written()
        self.names = [*dict.fromkeys(written.values())]
        if written:
            self._base = memory_of(routine).only(written.keys(), new_beside=self._fresh)

    def put_back(self) -> None:
        """Put back what the training left."""
        if self._left is not None:
            self._left.put_back()
            self._left = self._base = None

    @contextmanager
    def reversing(self) -> Iterator[None]:
        """Put back what the training left at the end of the block, whatever ends it.

        Where a replay makes something else in it, the error says what may be its cause.
        """
        try:
            yield
        except ReplayMismatchError as error:
            if self._left is None or not (self.names or self._writes_outside):
                raise
            first = str(error).partition(" Hardware, ")[0]
            words = f"{first} {_CAUSE.format(where=self._where())}"
            raise ReplayMismatchError(words, settings=error.settings) from error
        finally:
            self.put_back()

    def leads_elsewhere(self, step: int) -> str:
        """Say that a step leads to another state than it did in the training."""
        return (
            f"Step {step}, or one that was replayed before it, leads to another state when it is "
            "reversed than it did in the training, after calls with other numbers in between. "
            f"{_CAUSE.format(where=self._where())}"
        )

    def fails(self, step: int, error: Exception) -> str:
        """Say that a step cannot be run without what an earlier one has kept."""
        return (
            f"Step {step} fails ({type(error).__name__}: {words_of(error).splitlines()[0]}) where "
            "the run is reversed, after what was kept between two calls was taken away. "
            f"{_CAUSE.format(where=self._where())}"
        )

    def _where(self) -> str:
        return f"in {in_words(self.names)}" if self.names else "outside of the process's memory"


_NONE: tuple[int, State] = (sys.maxsize, {})
"""Stands for no step, and is later than all of them."""


def noting_memory(routine: Routine) -> AbstractContextManager[None]:
    """Note what a run keeps now, and return the context in which it is trained.

    Both are of all of its values of z, where segments of it are reversed later. In a notebook
    people change what their code reads between two calls, and nothing is noted.
    """
    if _FRESH not in routine.programs:
        routine.programs[_FRESH] = memory_of(routine)
        routine.programs[_OUTSIDE] = OutsideWrites()
    return routine.programs[_OUTSIDE].noting()


_FRESH, _OUTSIDE = "what is kept before any call", "what is written outside"


def leads_elsewhere(
    routine: Routine, states: tuple[State, State], following: Mapping[str, Tensor]
) -> bool:
    """Say whether an update leads elsewhere than it did in the training, by more than roundings.

    Args:
        routine: The run.
        states: s_t and s_{t+1} of the training; the second may be empty, of which nothing is said.
        following: What the update made of s_t.
    """
    before, after = states
    if not after:
        return False
    limit = gradient_limit(routine)
    with torch.no_grad():
        for name, row in following.items():
            moved = (after[name] - before[name]).norm()
            rounding = 10 * torch.finfo(row.dtype).eps * after[name].norm()
            if not (row.detach() - after[name]).norm() <= limit * moved + rounding:
                return True
    return False


_CAUSE = (
    "Something of what the loss, the module, a hook or the update keeps between calls ({where}) is "
    "read at a later step, and would be a constant of the metagradient. Compute it anew, let an "
    "optimizer's init return it, or carry it in a state of the run: Routine(state=, advance=)."
)
