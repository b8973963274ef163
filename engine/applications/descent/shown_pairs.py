"""Pairs to look at in a report: those that a selection dropped first, and those it keeps first."""

import io
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.problems.pairs.splits import Pairs
from engine.problems.splits import DataSet
from engine.reports.page import as_source

SHOWN = 12
"""Pairs of each kind."""


@dataclass(frozen=True)
class ShownPair:
    """A training pair as a report shows it.

    Attributes:
        image: As a page holds it.
        caption: What the pair was trained with.
        score: First metagradient; positive where more of the pair raises the objective.
        wrong: Whether the caption is known to be wrong.
        name: Where the pair comes from, or its number.
    """

    image: str
    caption: str
    score: float
    wrong: bool
    name: str


def shown_pairs(data: DataSet, value: Tensor, score: Tensor) -> dict[str, list[ShownPair]]:
    """Return pairs by the words for them; none where the examples are no pairs.

    Args:
        data: Whose training candidates are shown.
        value: Count or weight of each at the chosen iterate.
        score: First metagradient of each.
    """
    pairs = data.splits["train"]
    if not isinstance(pairs, Pairs) or len(value) != len(pairs) or len(score) != len(pairs):
        return {}
    assert data.ids is not None  # of data that were read

    def shown(place: int) -> ShownPair:
        return ShownPair(
            as_source(_png(pairs.inputs[torch.tensor([place])][0])),
            pairs.captions[place],
            float(score[place]),
            bool(data.corrupted[place]),
            pairs.names[place] if pairs.names else f"pair {int(data.ids[place])}",  # pyright: ignore[reportOptionalSubscript] (just asserted)
        )

    order = torch.argsort(score, stable=True)
    dropped = [place for place in order.flip(0).tolist() if value[place] == 0][:SHOWN]
    kept = [place for place in order.tolist() if value[place] > 0][:SHOWN]
    return {
        "Dropped: more of them would raise the objective most": [shown(p) for p in dropped],
        "Kept: more of them would lower it most": [shown(p) for p in kept],
    }


def _png(image: Tensor) -> bytes:
    """Return an image (channels, height, width) of any range as PNG; one channel is grey."""
    from matplotlib.image import imsave

    pixels = image.to(torch.float64)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) / max(high - low, 1e-12)
    stream = io.BytesIO()
    if len(scaled) == 3:
        imsave(stream, scaled.permute(1, 2, 0).numpy(), format="png")
    else:
        imsave(stream, scaled.mean(dim=0).numpy(), format="png", cmap="gray", vmin=0, vmax=1)
    return stream.getvalue()
