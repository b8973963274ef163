"""Calls of an update and a loss with other numbers, between a training and its reverse sweep.

What a function keeps outside of the state (in a closure, a class, a file, a package) holds what the
training left there, and a replay reads that again, so nothing differs. After calls with other
numbers it holds those. Wherever it is kept and read, an update or a loss that is asked again then
says something else than it did.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from engine.numerics.determinism import deterministic, filling, generator
from engine.routine.optimizer import Optimizer
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.agreement import gradient_limit
from engine.witness.derivatives.updates import is_shipped
from engine.witness.finite_differences import directions
from engine.witness.memory.kept import KeptByFunctions

_LOSSES = 8
"""Steps whose loss is called: as many cost what three plain steps do."""


class SameUpdates:
    """Refuses an update that makes something else of the same numbers when it is asked again.

    Args:
        optimizer: Whose update it is.
        limit: Relative difference that roundings may make.
        say: Is given words where one differs, and may raise them.

    Cost:
        Some norms for each update.
    """

    def __init__(self, optimizer: Optimizer, limit: float, say: Callable[[str], None]) -> None:
        self._optimizer, self._limit, self._say = optimizer, limit, say
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        step: int,
        state: Mapping[str, Tensor],
        gradient: Tensor,
        following: Mapping[str, Tensor],
    ) -> None:
        """Note an update, or compare it with the one of the same step, state and gradient."""
        with torch.no_grad():
            given = _sizes([*(row for _, row in sorted(state.items())), gradient])
            moved = [row - state[name] for name, row in sorted(following.items())]
            found = _sizes(moved)
        before = self._known.setdefault(step, (given, found))
        if before[1] is found or not _is_near(given, before[0], self._limit):
            return
        if not _is_near(found, before[1], self._limit):
            self._say(
                f"The update of optimizer {self._optimizer.name!r} depends on earlier calls: of "
                f"the same state and gradient of step {step} it made something else when the run "
                "was reversed than when it was trained, after calls with other numbers in between. "
                "What it keeps between two calls, in whatever place, would be a constant of the "
                "metagradient. Let init return it, and update its next value."
            )


def _sizes(rows: list[Tensor]) -> Tensor:
    """Return two norms of each row: of all of its numbers, and of every second one."""
    parts = [part.detach() for row in rows for part in (row, row[::2])]
    return torch.stack([part.norm().double() for part in parts])


def _is_near(one: Tensor, other: Tensor, limit: float) -> bool:
    return torch.allclose(one, other, rtol=limit, atol=0, equal_nan=True)


def memory_of(routine: Routine) -> KeptByFunctions:
    """Return what the loss and the update of a run keep now, as far as it is known where."""
    # The last one first.
    parts = (routine.model, routine.augment, routine.advance, routine.loss, routine.optimizer)
    return KeptByFunctions(*parts, of_state=routine.model)


def disturb(
    routine: Routine,
    state: State,
    z: Metaparams,
    kept: tuple[KeptByFunctions, KeptByFunctions],
    steps: Sequence[int] | None = None,
) -> None:
    """Call the update and the loss with numbers that are not those of the run.

    Args:
        routine: The run.
        state: One of its states.
        z: Metaparameters.
        kept: What they kept before the training, and what the training left. The first is put back
            before, since what is kept where nothing is yet would not be kept again. Where they fail
            without the second, and go well with it, it stays, since a look at an earlier entry of a
            log is sound.
        steps: Those that are called; all by default.

    Cost:
        The losses of eight batches without a graph; of an update that a user wrote, one of each
        step, also without. Three times that where they fail.
    """
    fresh, left = kept
    steps = range(routine.first_step, routine.num_steps) if steps is None else steps
    last = len(steps) - 1
    count = min(_LOSSES, len(steps))
    losses = sorted({steps[last * i // max(count - 1, 1)] for i in range(count)})

    def go_well() -> bool:
        """Call all of them, and say whether none failed."""
        failed = 0 if is_shipped(routine.optimizer) else call_updates(routine, state, z, steps)
        return failed + call_losses(routine, state, z, losses) == 0

    fresh.put_back()
    with filling(), deterministic(), torch.no_grad():
        if go_well():
            return
        left.put_back()
        if not go_well():
            fresh.put_back()
            go_well()


def same_updates(routine: Routine, say: Callable[[str], None]) -> SameUpdates | None:
    """Return what compares the updates of a run; None for those of the engine."""
    if is_shipped(routine.optimizer):
        return None
    return SameUpdates(routine.optimizer, gradient_limit(routine), say)


def call_updates(routine: Routine, state: State, z: Metaparams, steps: Sequence[int]) -> int:
    """Call the updates of some steps with other numbers, and return how many failed."""
    failed = 0
    params = state["params"].detach()
    names = {"params", *routine.optimizer.init(params.clone())}
    other = {name: 1.3 * state[name].detach() for name in names}
    gradient = directions(params, generator(0, "disturbed")).to(params.dtype)
    for step in steps:
        try:
            routine.optimizer.update(dict(other), gradient, routine.hyperparameters(z, step), step)
        except Exception:  # of code of the user, which others tell
            failed += 1
    return failed


def call_losses(routine: Routine, state: State, z: Metaparams, steps: Sequence[int]) -> int:
    """Call the losses of some steps with other numbers, and return how many failed."""
    failed, params = 0, 1.1 * state["params"].detach()
    for step in steps:
        try:
            term = routine.first_piece(next(routine.terms(step)))
            with routine.reading(state), torch.enable_grad(), routine.binding.keeping():
                routine.term_losses(params.clone().requires_grad_(), term, z, step)
        except Exception:  # likewise
            failed += 1
    return failed
