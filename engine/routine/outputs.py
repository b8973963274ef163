"""Outputs phi of a trained model: the scalars whose metagradients are wanted.

Any differentiable function of the model is one. ``MeanLoss`` is the usual one, evaluated in chunks
so that its memory does not grow with the number of examples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from engine.errors import ConfigurationError, DataError
from engine.models.losses import IGNORED, per_example_cross_entropy
from engine.routine.intake import whole_number
from engine.routine.own_state import Own, told_state
from engine.shown.line import shown_value
from engine.types import Loss, Output


@dataclass(frozen=True, repr=False)
class MeanLoss:
    """Mean of the per-example losses over held-out examples.

    Attributes:
        loss: Maps (model, batch) to per-example losses, shape (batch,); if it has an argument
            ``state``, it is given the run's own state.
        examples: A tuple of tensors with one row for each example, on the model's device, or any
            object with ``len`` that returns a batch for a tensor of indices.
        chunk: Examples evaluated at a time; bounds the memory.
    """

    loss: Loss
    examples: Any
    chunk: int = 1000

    def __post_init__(self) -> None:
        if not callable(self.loss) or not hasattr(self.examples, "__len__"):
            raise DataError(
                f"MeanLoss was given a {type(self.loss).__name__} for a loss and a "
                f"{type(self.examples).__name__} for examples. Hand in engine.MeanLoss(loss, "
                "(inputs, labels)): first the function, then what it is averaged over."
            )
        if isinstance(self.examples, DataLoader | list):
            raise DataError(
                f"The examples of MeanLoss are a {type(self.examples).__name__}. Hand in columns, "
                "e.g. (inputs, labels), or a data set that returns a batch for a tensor of "
                "indices."
            )
        object.__setattr__(self, "chunk", whole_number("chunk", self.chunk))
        if self.chunk < 1:
            raise DataError(f"chunk is {self.chunk}, but it counts examples. Use 1 or more.")
        if not len(self.examples) or self.num_examples == 0:
            raise DataError("The output has no examples to average over. Give at least one.")

    def __repr__(self) -> str:
        return f"MeanLoss({shown_value(self.loss)} over {self.num_examples} examples)"

    def __call__(self, model: nn.Module, state: Own | None = None) -> Tensor:
        """Return the mean loss, a scalar."""
        return torch.stack([part(model, state) for part in self.parts()]).sum()

    def parts(self) -> Iterator[Callable[..., Tensor]]:
        """Yield functions of (model, state) whose sum is the mean loss."""
        total = self.num_examples
        for start, batch in zip(
            range(0, total, self.chunk), batches_of(self.examples, self.chunk), strict=True
        ):
            number = min(self.chunk, total - start)
            yield (
                lambda model, state=None, batch=batch, number=number: (
                    self._sum(model, batch, number, state) / total
                )
            )

    def _sum(self, model: nn.Module, batch: Any, number: int, state: Own | None) -> Tensor:  # noqa: ANN401 (any batch)
        # A loss that wants a gradient by its inputs tells them so, which must not outlast the call.
        batch = tree_map(lambda part: part.detach() if isinstance(part, Tensor) else part, batch)
        losses = self.loss(model, batch, **told_state(self.loss, state))
        if losses.shape != (number,):  # a mean would be divided twice, in silence
            raise ConfigurationError(
                f"The loss of {number} held-out examples has shape {tuple(losses.shape)}, but it "
                "has to be one number for each example. Use reduction='none', and take the mean "
                "over all other axes."
            )
        return losses.sum()

    @property
    def num_examples(self) -> int:
        """Number of held-out examples."""
        return len(self.examples[0] if isinstance(self.examples, tuple) else self.examples)


def parts_of(output: Output) -> Iterator[Callable[..., Tensor]]:
    """Yield functions of (model, state) whose sum is an output: the chunks of a mean, or itself.

    Only the engine's own outputs are asked for ``parts``: on any other, the name may mean anything.
    """
    if isinstance(output, MeanLoss):
        yield from output.parts()
    else:
        yield output


def batches_of(examples: Any, chunk: int) -> Iterator[Any]:  # noqa: ANN401 (see MeanLoss)
    """Yield examples so many at a time, in their order."""
    if isinstance(examples, tuple):
        for start in range(0, len(examples[0]), chunk):
            yield tuple(column[start : start + chunk] for column in examples)
        return
    for start in range(0, len(examples), chunk):
        yield examples[torch.arange(start, min(start + chunk, len(examples)), device="cpu")]


@torch.no_grad()
def classification_scores(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, chunk: int = 1000
) -> dict[str, Any]:
    """Return mean cross-entropy ``loss`` and ``accuracy`` of a classifier in evaluation mode.

    Both are means over the examples; an example with a label for each of its tokens has the mean
    over those that are not ``IGNORED``.
    """
    loss, right = 0.0, 0.0
    for start in range(0, len(labels), chunk):
        logits = model(inputs[start : start + chunk])
        target = labels[start : start + chunk]
        part = per_example_cross_entropy(lambda same: same, (logits.double(), target))
        loss += float(part.sum())
        hits, counted = logits.argmax(dim=-1) == target, target != IGNORED
        if target.ndim > 1:
            hits, counted = hits.flatten(1).sum(dim=1), counted.flatten(1).sum(dim=1)
        right += float((hits.double() / counted).sum())
    return {"loss": loss / len(labels), "accuracy": right / len(labels)}
