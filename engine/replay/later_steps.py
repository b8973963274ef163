"""The second derivative of later steps beside a finite difference.

A loss may begin to cut something out of the graph late in a run, for example for examples that are
learned by then. No check before the training can see that. So four states of the run itself are
checked when the reverse sweep comes to them: those of the last two steps, whose batches differ, and
two between them and the start.
"""

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic
from engine.replay.interpreter import Sweep
from engine.routine.diagnosis import told_by_witness
from engine.routine.loss_terms import Term
from engine.routine.routine import Routine
from engine.schedules.trees import Action, Reverse
from engine.types import Metaparams, State
from engine.witness.curvature import Here, compare_loss
from engine.witness.moved_statistics import refuse_cut_statistics


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
        At each of four states the losses of a batch, which say what examples tell most, and a
        product and a gradient in float64: of one example, or of more where they are small. Where
        the module moves buffers, what ``refuse_cut_statistics`` takes.
    """

    def __init__(self, routine: Routine, z: Metaparams, *, refuses: bool = True) -> None:
        self._routine, self._z, self._refuses = routine, z, refuses
        self.unseen: list[int] = []
        self.wrong: list[str] = []
        first, stop = routine.first_step, routine.num_steps
        middle = (first + stop) // 2
        self._steps = {
            max(step, first) for step in (middle, (middle + stop) // 2, stop - 2, stop - 1)
        }

    def __call__(self, action: Action, sweep: Sweep) -> None:
        """Compare, if the action reverses one of the steps.

        Raises:
            WitnessError: Says by how much it is off, or that the call writes into its parameters.
        """
        if not isinstance(action, Reverse) or action.step not in self._steps:
            return
        state, step = sweep.before(action.step), action.step
        try:
            with told_by_witness(), deterministic(), sweep.unmoved.watching(state, step):
                found = self._compare(state, step)
        except WitnessError as error:
            if self._refuses:
                raise
            self.wrong.append(str(error))
        else:
            if found is None:
                self.unseen.append(step)

    @property
    def note(self) -> str:
        """Say which steps could not be compared; empty if all were."""
        steps = ", ".join(map(str, sorted(self.unseen)))
        return steps and (
            f"In step {steps} no finite difference settles, so the second derivative of the loss "
            "was compared at the start only."
        )

    def _compare(self, state: State, step: int) -> float | None:
        """Return the error of the second derivative; None if it could not be taken."""
        routine, z = self._routine, self._z
        term = routine.first_piece(next(routine.terms(step)))
        rows = {name: row.detach() for name, row in state.items()}
        losses = self._losses(rows, term, step)
        if not torch.isfinite(losses).all():
            return None
        try:
            refuse_cut_statistics(routine, rows, z, step)
            moved = rows["params"] != routine.initial_state(z)["params"]
            here = Here(rows, term, losses, {}, torch.zeros(0), step, z, {}, True, (moved,))
            found, _ = compare_loss(routine, here)
        except WitnessError as error:
            raise WitnessError(
                f"{error} That is so in step {step}, and was not at the start, so it begins with "
                "the training: look for what depends on the size of a loss, on how sure the model "
                "is, or on how large a weight is."
            ) from None
        return found

    def _losses(self, state: State, term: Term, step: int) -> Tensor:
        params = state["params"].requires_grad_()
        with torch.enable_grad(), self._routine.reading(state):  # a loss may take derivatives
            losses = self._routine.term_losses(params, term, self._z, step)
        params.requires_grad_(False)
        return losses.detach()
