"""The second derivative of later steps beside a finite difference.

A loss may begin to cut something out of the graph late in a run, for example for examples that are
learned by then. No check before the training can see that. So four states of the run itself are
checked when the reverse sweep comes to them: those of the last two steps, whose batches differ, and
two between them and the start. And wherever a step that is reversed takes something out of the
graph at a line that no comparison has run through, as every tenth step may, it is compared, too.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic
from engine.replay.interpreter import Sweep
from engine.routine.diagnosis import told_by_witness
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import without_buffers
from engine.routine.routine import Routine
from engine.schedules.trees import Action, Reverse, Trace
from engine.step.compiled import CompiledVjp
from engine.step.gradient import batch_in_order
from engine.types import Metaparams, State
from engine.witness.compared_point import updated
from engine.witness.derivatives.curvature import Here, compare_loss, compare_step_update
from engine.witness.derivatives.moved_statistics import refuse_cut_statistics
from engine.witness.lines import CutPlaces, Place

_MOST = 8
"""Steps that are compared because of what they take out of the graph: what is taken out at other
lines by then, or where no comparison comes to it, is only said."""


class LaterSteps:
    """Refuses a loss whose second derivative is wrong at a later step.

    It is given every action of a schedule before the action is carried out. A schedule that
    reverses a part of the run is checked only if one of the four steps is in that part.

    Args:
        routine: The run.
        z: Metaparameters.
        refuses: Whether a wrong derivative raises an error at once. A stage only keeps it in
            ``wrong``, because the result of a stage does not depend on what is done about it.

    Attributes:
        unseen: Steps at which no comparison was possible, for example because finite differences of
            several distances disagreed.
        wrong: What is wrong, in words.

    Cost:
        A look at each call of torch in a step that is reversed, 1 to 2 microseconds; at each
        of four states, and at most 8 others, the losses of a batch, which say what examples tell
        most, and a product and a gradient in float64: of one example, or of more where they are
        small. Where the module moves buffers, what ``refuse_cut_statistics`` takes.
    """

    def __init__(self, routine: Routine, z: Metaparams, *, refuses: bool = True) -> None:
        self._routine, self._z, self._refuses = routine, z, refuses
        self.unseen: list[int] = []
        self.wrong: list[str] = []
        self._met: dict[Place, None] = {}
        self._compared: set[Place] = set()
        self._more = _MOST
        first, stop = routine.first_step, routine.num_steps
        middle = (first + stop) // 2
        self._steps = {
            max(step, first) for step in (middle, (middle + stop) // 2, stop - 2, stop - 1)
        }

    def __call__(self, action: Action, sweep: Sweep) -> AbstractContextManager[None] | None:
        """Compare, if the action reverses one of the steps, and return what listens to it.

        Raises:
            WitnessError: Says by how much it is off, or that the call writes into its parameters.
        """
        if isinstance(action, Reverse) and action.step in self._steps:
            state, step = sweep.before(action.step), action.step
            with sweep.unmoved.watching(state, step):
                if self._told(lambda: self._compare_loss(state, step), step) is None:
                    self.unseen.append(step)
        if not isinstance(action, Reverse | Trace) or isinstance(sweep.vjp, CompiledVjp):
            return None  # a compiled step calls no code of anybody's
        return self._listening(action, sweep)

    @contextmanager
    def _listening(self, action: Reverse | Trace, sweep: Sweep) -> Iterator[None]:
        """Note what a step takes out of the graph, and compare it if that is new."""
        state = sweep.before(action.step) if isinstance(action, Reverse) else None
        places = CutPlaces()
        with places:
            yield
        self._met |= places.found
        if state is None or not isinstance(action, Reverse):
            return  # a step whose graph is kept is compared when it is reversed
        step = action.step
        if not self._more or not self._unknown:
            return
        self._more -= 1
        self._told(lambda: self._compare_loss(state, step), step)
        if self._unknown:
            self._told(lambda: self._compare_update(state, step), step)

    @property
    def _unknown(self) -> list[Place]:
        """Lines that no comparison has run through yet."""
        return [place for place in self._met if place not in self._compared]

    def _told(self, compare: Callable[[], float | None], step: int) -> float | None:
        """Carry out a comparison, note what it runs through, and refuse what is wrong."""
        places = CutPlaces()
        try:
            with told_by_witness(), deterministic(), places:
                return compare()
        except WitnessError as error:
            words = _later(error, step)
            if self._refuses:
                raise WitnessError(words) from None
            self.wrong.append(words)
            return 0.0
        finally:
            self._compared |= places.found.keys()

    @property
    def note(self) -> str:
        """Say which steps could not be compared; empty if all were."""
        steps = ", ".join(map(str, sorted(self.unseen)))
        lines = ", ".join(f"{file}:{line}" for file, line in self._unknown[:3])
        words = (
            steps
            and (
                f"In step {steps} no finite difference settles, so the second derivative of the "
                "loss was compared at the start only."
            ),
            lines and f"What is taken out of the graph at {lines} was met by no comparison.",
        )
        return " ".join(filter(None, words))

    def _compare_loss(self, state: State, step: int) -> float | None:
        """Return the error of the second derivative; None if it could not be taken."""
        routine, z = self._routine, self._z
        term = routine.first_piece(next(routine.terms(step)))
        rows = {name: row.detach() for name, row in state.items()}
        losses = self._losses(rows, term, step)
        if not torch.isfinite(losses).all():
            return None
        refuse_cut_statistics(routine, rows, z, step)
        moved = rows["params"] != routine.initial_state(z)["params"]
        here = Here(rows, term, losses, {}, torch.zeros(0), step, z, {}, True, (moved,))
        return compare_loss(routine, here)[0]

    def _compare_update(self, state: State, step: int) -> None:
        """Compare the derivative of the update at the moments of a step."""
        routine, z = self._routine, self._z
        rows = {name: row.detach() for name, row in state.items()}
        params = rows["params"].clone().requires_grad_()
        gradient, _, _ = batch_in_order(routine, rows, params, z, step)
        before = without_buffers(rows)
        with torch.no_grad(), routine.reading(rows), routine.binding.kept():
            after = updated(routine, before, gradient.detach(), z, step)
        moves = {name: float((row - before[name]).norm()) for name, row in after.items()}
        term, losses = next(routine.terms(step)), torch.zeros(0)
        here = Here(rows, term, losses, before, gradient.detach(), step, z, moves, True)
        compare_step_update(routine, here)

    def _losses(self, state: State, term: Term, step: int) -> Tensor:
        params = state["params"].requires_grad_()
        with torch.enable_grad(), self._routine.reading(state):  # a loss may take derivatives
            losses = self._routine.term_losses(params, term, self._z, step)
        params.requires_grad_(False)
        return losses.detach()


def _later(error: WitnessError, step: int) -> str:
    return (
        f"{error} That is so in step {step}, and was not at the start, so it begins with the "
        "training, or comes only now and then: look for what depends on the step, on the size of a "
        "loss, on how sure the model is, or on how large a weight is."
    )
