"""Scores of pairs: how well a model finds captions by images, and images by captions."""

import torch
from torch import Tensor, nn

from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.splits import Pairs


def retrieval_scores(
    model: nn.Module, pairs: Pairs, *, batch_size: int, chunk: int = 1000
) -> dict[str, float]:
    """Return the loss of held-out pairs, and how often the closest of the other side is right.

    Args:
        model: Two towers, in evaluation mode.
        pairs: Held-out pairs on the model's device.
        batch_size: Pairs among which a loss is taken, as in training.
        chunk: Pairs among which the closest is looked for.

    Returns:
        ``loss``; ``accuracy``, the share of images whose closest caption is of their group; and
        ``text_to_image``, over captions the mean share of their own group among the closest
        images, as many as the group has (R-precision; recall at 1 where groups are single pairs).
    """
    loss, total = ContrastiveLoss(), len(pairs)
    parts = [
        loss.embed(
            model, (pairs.inputs[start : start + chunk], pairs.labels[start : start + chunk])
        )
        for start in range(0, total, chunk)
    ]
    batches = torch.cat(parts).double().split(batch_size)
    losses = sum(float(loss.couple(model, each).detach().sum()) for each in batches)
    found = {"accuracy": 0.0, "text_to_image": 0.0}
    for embedded, groups in zip(parts, pairs.groups.split(chunk), strict=True):
        images, texts = embedded.unbind(1)
        similar = images @ texts.T
        found["accuracy"] += int((groups[similar.argmax(dim=1)] == groups).sum())
        found["text_to_image"] += _sum_of_precisions(similar.T, groups)
    return {"loss": losses / total, **{name: hits / total for name, hits in found.items()}}


def _sum_of_precisions(similar: Tensor, groups: Tensor) -> float:
    """Sum the R-precision over the rows."""
    closest = groups[similar.argsort(dim=1, descending=True, stable=True)] == groups[:, None]
    sizes = closest.sum(dim=1)
    among = torch.arange(len(groups), device=groups.device) < sizes[:, None]
    return float(((closest & among).sum(dim=1) / sizes).sum())
