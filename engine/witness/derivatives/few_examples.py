"""The loss of a step over few of its examples, as its second derivative is compared."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from engine.routine.examples import rows_of
from engine.routine.loss_terms import Term
from engine.routine.module.operations import without_checkpointing
from engine.routine.number_format import SameNumbers, convert
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.agreement import gradient_limit, relative


@dataclass(frozen=True)
class Here:
    """Where derivatives are compared.

    Attributes:
        state: s_t, in the run's own format.
        term: The examples of the step.
        losses: Their losses there, shape (batch,).
        after: What the optimizer moves, after an update there, so that moments are not zero.
        gradient: Gradient of that update, shape (params,).
        step, z: t, and metaparameters.
        moves: How far that update moved each of them.
        is_late: Whether the training has come some way, where a loss may leave out what is learned.
        moved: What it has moved so far, as ``compare`` takes it.
        is_whole: Whether all examples are compared, and not a few that tell.
    """

    state: State
    term: Term
    losses: Tensor
    after: State
    gradient: Tensor
    step: int
    z: Metaparams
    moves: Mapping[str, float]
    is_late: bool = False
    moved: tuple[Tensor] | None = None
    is_whole: bool = False


class DependsOnOthersError(Exception):
    """The loss of an example is another one without the others."""


class FewExamples:
    """The loss of a step over few examples, in float64, as a function of the flat parameters.

    The run's own module is called with float64 tensors in the place of its parameters; what else
    it holds is converted where it is used. So a run in float32 needs no second module.

    Args:
        routine: The run, in any format.
        here: The step.
        number: How many examples: those with the largest and with the smallest losses in turn,
            because a loss may treat what is learned, or ignored, in another way.
        alone: Whether they have to have the losses that they have among the others.
        coarse: Whether it is computed in the run's own format.
    """

    def __init__(
        self,
        routine: Routine,
        here: Here,
        number: int,
        *,
        alone: bool = False,
        coarse: bool = False,
    ) -> None:
        self._routine, self._here = routine, here
        self._is_converted = routine.layout.dtype != torch.float64 and not coarse
        rows = _telling(here, number)
        self._wanted = here.losses[rows] if alone else None
        self._term = replace(here.term, indices=here.term.indices[rows], whole=None, start=0)
        batch, self._arguments = routine.loss_inputs(self._term, here.z, here.step)
        if routine.augment is not None:  # as in the batch, whose draws it shares
            whole, _ = routine.loss_inputs(here.term, here.z, here.step)
            batch = rows_of(whole, rows, len(here.term.indices))
        self._batch = convert(batch, torch.float64) if self._is_converted else batch

    @property
    def weights(self) -> Tensor:
        """Weights of the examples, 1 each, shape (examples,)."""
        return torch.ones(len(self._term.indices), dtype=torch.float64, device=self._routine.device)

    def __call__(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the sum of the losses by B, a scalar; ``params`` has shape (params,)."""
        batch = tree_map(_own, self._batch)
        with self._routine.seeded(self._term, self._here.step):
            losses = self._routine.call(self._losses, params, batch, training=True)
        if self._wanted is not None:
            if relative(losses.detach(), self._wanted) > gradient_limit(self._routine):
                raise DependsOnOthersError
            self._wanted = None
        losses = losses if weights is None else weights.to(losses.dtype) * losses
        return losses.sum() / self._routine.batch_size

    def _losses(self, model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 (any batch)
        loss: Callable[..., Tensor] = self._routine.loss
        with ExitStack() as stack:
            if self._is_converted:
                stack.enter_context(SameNumbers(torch.float64))
                # What is checkpointed would be computed again outside of this block.
                stack.enter_context(without_checkpointing())
            return loss(model, batch, **self._arguments)


def _own(leaf: Any) -> Any:  # noqa: ANN401 (any part of a batch)
    """Return a tensor of its own, because a loss may write into its batch."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _telling(here: Here, number: int) -> Tensor:
    """Return the places, in order, of the largest losses and of the smallest by turns.

    A single one is the largest at the start of a run and, later, that at the lower quarter: it is
    learned where others are, and has a derivative left.
    """
    order = here.losses.detach().cpu().argsort(descending=True)
    if number == 1 and here.is_late:
        return order[-1 - len(order) // 4][None]
    ends = torch.stack([order, order.flip(0)], dim=1).flatten()[:number]
    return ends.sort().values
