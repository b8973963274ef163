"""The second derivative of later steps beside a finite difference.

A loss may cut something out of the graph from some point on: for examples that are learned by then,
or once it is small. Before the training nobody can know, so two states of the run are looked at as
they come by: the last one, and one in the middle.
"""

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic
from engine.replay.interpreter import Sweep
from engine.routine.diagnosis import told_by_witness
from engine.routine.loss_terms import Term
from engine.routine.routine import Routine
from engine.schedules.trees import Action, Reverse, Seed
from engine.types import Metaparams, State
from engine.witness.curvature import Here, compare_loss


class LaterSteps:
    """Refuses a loss whose second derivative is wrong at a later step.

    Told of every action of a schedule before it is carried out.

    Args:
        routine: The run.
        z: Metaparameters.

    Attributes:
        unseen: Steps at which nothing could be compared, as where finite differences do not settle.

    Cost:
        At each of the two states a product and a gradient of a few examples in float64, and at
        the last one the losses of a batch, which say what examples tell most.
    """

    def __init__(self, routine: Routine, z: Metaparams) -> None:
        self._routine, self._z = routine, z
        self.unseen: list[int] = []
        self._last, self._middle = routine.num_steps - 1, routine.num_steps // 2

    def __call__(self, action: Action, sweep: Sweep) -> None:
        """Compare, if the action begins the reversal, or reverses the step in the middle.

        Raises:
            WitnessError: Says by how much it is off, or that the call writes into its parameters.
        """
        if isinstance(action, Seed):
            state, step = sweep.state, self._last
        elif isinstance(action, Reverse) and action.step == self._middle < self._last:
            state, step = sweep.before(self._middle), self._middle
        else:
            return
        with told_by_witness(), deterministic(), sweep.unmoved.watching(state, step):
            if self._compare(state, step) is None:
                self.unseen.append(step)

    @property
    def note(self) -> str:
        """Say what was compared at the start only; empty if nothing."""
        steps = " and ".join(map(str, sorted(self.unseen)))
        return steps and (
            f"In step {steps} no finite difference settles, so the second derivative of the loss "
            "was compared at the start only."
        )

    def _compare(self, state: State, step: int) -> float | None:
        """Return the error of the second derivative; None if it could not be taken."""
        routine, z = self._routine, self._z
        term = routine.first_piece(next(routine.terms(step)))
        rows = {name: row.detach() for name, row in state.items()}
        losses = torch.zeros(len(term.indices))
        if step == self._last:
            losses = self._losses(rows, term, step)
        if not torch.isfinite(losses).all():
            return None
        try:
            found, _ = compare_loss(
                routine, Here(rows, term, losses, {}, torch.zeros(0), step, z, {})
            )
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
