"""Cross-entropy of each example."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

IGNORED = -100
"""Label of a token whose loss does not count: a prompt's, or padding; torch's own number."""

_FEW_CLASSES = 15
"""Classes up to which a softmax of many rows is faster by columns, five times for ten classes: a
row alone does not fill a processor's register of 16 numbers."""


def per_example_cross_entropy(
    model: Callable[[Tensor], Tensor],
    batch: tuple[Shaped[Tensor, "batch ..."], Int64[Tensor, "batch ..."]],
    *,
    label_smoothing: Float[Tensor, ""] | float | None = None,
) -> Float[Tensor, " batch"]:
    """Return each example's cross-entropy loss in nats, not averaged over examples.

    An example that is a sequence, with a label for each token, has the mean over its tokens; those
    with the label ``IGNORED`` have no part in it.

    Args:
        model: Maps inputs to logits; an ``nn.Module`` or any function.
        batch: Inputs and labels.
        label_smoothing: Share of the target that is spread evenly over all classes; none by
            default. It may be a metaparameter.
    """
    inputs, labels = batch
    logits = model(inputs)
    # Flat, because torch's loss over more axes is not deterministic on every device.
    losses = _cross_entropy(logits.flatten(0, -2), labels.flatten())
    if label_smoothing is not None:
        even = -F.log_softmax(logits.flatten(0, -2), dim=1).mean(dim=1)
        even = torch.where(labels.flatten() == IGNORED, 0.0, even)
        losses = (1 - label_smoothing) * losses + label_smoothing * even
    if labels.ndim == 1:
        return losses
    counted = (labels != IGNORED).flatten(1).sum(dim=1)
    return losses.view(len(labels), -1).sum(dim=1) / counted


def per_text_cross_entropy(
    model: Callable[..., Tensor],
    batch: tuple[Int64[Tensor, "batch tokens"], Int64[Tensor, "batch tokens"]],
    *,
    label_smoothing: Float[Tensor, ""] | float | None = None,
    input_shifts: Float[Tensor, "batch tokens width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return each text's cross-entropy loss, in nats a token; see ``per_example_cross_entropy``.

    Args:
        model: Maps tokens, and perhaps shifts of their embeddings, to logits.
        batch: Tokens, and the token that follows each.
        label_smoothing: As above.
        input_shifts: What is added to the embedded tokens; none by default.
    """
    moved = model if input_shifts is None else partial(model, shifts=input_shifts)
    return per_example_cross_entropy(moved, batch, label_smoothing=label_smoothing)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each row, as torch's own; 0 where the label is ``IGNORED``.

    Under ``vmap`` it is written out in operations that have batching rules: torch's own is
    decomposed in Python there, for which sympy is loaded, 0.3 s of a small run.
    """
    if not torch._C._functorch.is_batchedtensor(logits):  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        return F.cross_entropy(logits, labels, reduction="none")
    is_ignored = labels == IGNORED
    place = torch.where(is_ignored, 0, labels).unsqueeze(0)
    few = logits.shape[1] <= _FEW_CLASSES
    columns = F.log_softmax(logits.T, dim=0) if few else F.log_softmax(logits, dim=1).T
    losses = -columns.gather(0, place).squeeze(0)
    return torch.where(is_ignored, 0.0, losses)
