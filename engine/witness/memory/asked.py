"""What an update or a loss keeps between two calls outside of the run's state, and reads again.

``self.scale[t] = float(norm)``, filled where it is empty, is a constant whenever a step is asked
again, so no difference of that step shows what it costs. It shows where what is kept is put back:
a step that finds what another state left in its place makes another step of its own.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic, filling, generator
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.derivatives.updates import is_shipped
from engine.witness.finite_differences import directions
from engine.witness.memory.kept import KeptByFunctions

_STEPS = 24
"""Steps from the beginning at which an update is asked, beside the last ones: who does something
every so many steps has done it by then."""


def refuse_memory(routine: Routine, z: Metaparams) -> None:
    """Refuse an update or a loss that reads what another call of it has left behind.

    Args:
        routine: The run, before any of its steps was taken.
        z: Metaparameters.

    Raises:
        WitnessError: Names where that is kept.

    Cost:
        Nothing for the engine's own optimizers, and for what can reach nothing that it may write
        into. Else an update at some thirty steps without a graph, and the losses of two batches; a
        few more at steps that do write.
    """
    with filling(), deterministic(), torch.no_grad():
        if not is_shipped(routine.optimizer):
            _refuse_updates(routine, z)
        _refuse_losses(routine, z)


_CONSTANT = (
    "The metagradient takes what is kept for a constant, and would miss how it moves with the "
    "parameters"
)


def _refuse_updates(routine: Routine, z: Metaparams) -> None:
    optimizer, last = routine.optimizer, routine.num_steps - 1
    found = None
    with suppress(Exception):  # of code of the user, which others tell
        row = routine.layout.flatten(routine.trainable)
        here: State = {"params": row, **optimizer.init(row.clone())}
        gradient = directions(row, generator(0, "memory")).to(row.dtype)
        there = {name: 1.3 * each for name, each in here.items()}
        states = (here, gradient), (there, 0.7 * gradient.flip(0))

        def call(which: int, at: int) -> State:
            state, slope = states[which]
            given = {name: each.clone() for name, each in state.items()}
            return optimizer.update(given, slope.clone(), routine.hyperparameters(z, at), at)

        few = {*range(_STEPS), last // 4, last // 2, 3 * last // 4, last - 1, last}
        steps = sorted(each for each in few if 0 <= each <= last)
        found = _first_that_reads(
            KeptByFunctions(optimizer, of_state=routine.model, draws=False), call, steps
        )
    if found is not None:
        step, names = found
        raise WitnessError(
            f"The update of optimizer {optimizer.name!r} depends on what an earlier call has left "
            f"in {in_words(names)}: called with another state in between, it returns another "
            f"result for step {step}. {_CONSTANT}. Let init return what is kept, and update "
            "its next value."
        )


def _refuse_losses(routine: Routine, z: Metaparams) -> None:
    memory = KeptByFunctions(routine.loss, of_state=routine.model, draws=False)
    found, last = None, routine.num_steps - 1
    with suppress(Exception):
        state = routine.initial_state(z)
        memory.put_back()  # whether the module moves its buffers was asked by calls of the loss
        rows = (state["params"], state["params"] * 1.1)

        def call(which: int, at: int) -> State:
            term = routine.first_piece(next(routine.terms(at)))
            params = rows[which].clone().requires_grad_()  # a loss may take derivatives
            with routine.reading(state), torch.enable_grad(), routine.binding.keeping():
                return {"": routine.term_losses(params, term, z, at).detach()}

        found = _first_that_reads(memory, call, sorted({last // 2, last}))
    if found is not None:
        step, names = found
        raise WitnessError(
            f"The loss depends on what an earlier call has left in {in_words(names)}: called "
            f"with other parameters in between, it returns another value for step {step}. "
            f"{_CONSTANT}. Compute it anew, or carry it in a state of the run: "
            "Routine(state=, advance=)."
        )


_Call = Callable[[int, int], State]
"""Is given 0, or 1 for another state, and a step."""


def _first_that_reads(
    memory: KeptByFunctions, call: _Call, steps: Sequence[int]
) -> tuple[int, Sequence[str]] | None:
    if memory.is_empty:
        return None
    found = ((step, _read_again(memory, call, step)) for step in steps)
    return next(((step, names) for step, names in found if names), None)


def _read_again(memory: KeptByFunctions, call: _Call, step: int) -> Sequence[str]:
    """Return the names of memory that a call fills, if its value depends on what another left.

    Args:
        memory: What it can reach, and has when this begins and ends.
        call: Of the update, or of the loss.
        step: t.
    """
    try:
        first = call(0, step)
        names = memory.changed()
        if not names:
            return ()
        memory.put_back()
        if not _is_same(first, call(0, step)):
            return ()  # it draws, or counts elsewhere, which others tell
        memory.put_back()
        for at in range(max(0, step - 1), step + 1):
            call(1, at)
        return () if _is_same(first, call(0, step)) else names
    finally:
        memory.put_back()


def _is_same(one: State, other: State) -> bool:
    return all(torch.equal(row.nan_to_num(), other[name].nan_to_num()) for name, row in one.items())


def in_words(names: Sequence[str]) -> str:
    """Return names of places as a part of a sentence."""
    known = [*dict.fromkeys(repr(name) for name in names if name)]
    return ", ".join(known[:3]) or "a variable of its own"
