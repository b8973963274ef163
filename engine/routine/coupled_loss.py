"""Losses whose examples are coupled: each is compared with the rest of its batch.

A contrastive loss needs the other pairs of the batch as negatives, so that "the loss of example i"
is a question about i and a batch. Such a loss goes through embeddings: each example's own, which
know no other example, and what is computed from all of them. That split is all the engine needs:
what a weight means, what an injected example adds, and how to go through a large batch in pieces.

A weight is a multiplicity: an example of weight w counts w times in the sum of the losses and w
times among the negatives. So weight 0 is the batch without it, and weight 2 the batch with two
copies of it, as for independent examples.

An injected example (Algorithm 1 at its step k) adds what one more copy of it in batch k would add
to the batch's summed loss: L(batch and i) - L(batch). For independent examples that is l_i.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from engine.types import Batch


@runtime_checkable
class CoupledLoss(Protocol):
    """What ``Routine.loss`` has to be if the loss of an example depends on its batch."""

    def __call__(
        self, model: nn.Module, batch: Batch, *, multiplicity: Tensor | None = None
    ) -> Tensor:
        """Return ``couple`` of the batch's embeddings, shape (batch,)."""
        ...

    def embed(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the embedding of each example by itself, shape (batch, ...).

        A row must depend on its own example only; ``engine.replay.refusals.first_step`` compares.
        """
        ...

    def couple(
        self, model: nn.Module, embeddings: Tensor, multiplicity: Tensor | None = None
    ) -> Tensor:
        """Return the losses of a batch, shape (batch,).

        Args:
            model: Has the parameters that the loss reads besides the embeddings.
            embeddings: Embeddings of the batch.
            multiplicity: How often each example counts among the others, shape (batch,); once each
                by default. The sum over the batch is weighted outside of it.
        """
        ...

    def join(
        self,
        model: nn.Module,
        embeddings: Tensor,
        joining: Tensor,
        multiplicity: Tensor | None = None,
    ) -> Tensor:
        """Return by how much each of some examples raises the sum of a batch's losses.

        Entry i is L(batch and i) - L(batch): one copy of it joins, without the other ones.

        Args:
            model: As above.
            embeddings: Embeddings of the batch.
            joining: Embeddings of those that join, shape (joining, ...).
            multiplicity: Multiplicity of the batch's examples.
        """
        ...


def coupled(loss: Any) -> CoupledLoss | None:  # noqa: ANN401 (what a user calls a loss)
    """Return a loss as a coupled one, or None if its examples are independent."""
    return loss if isinstance(loss, CoupledLoss) else None
