"""Section of examples to look at: those that a selection dropped first, and those it keeps first.

Pairs show themselves. Any other problem may have a function ``show``, of a picture or a text; what
it raises is shown in place of the example, because it says nothing about the run.
"""

import io
from typing import Any

import torch
from torch import Tensor

from engine.applications.descent.material import Material
from engine.problems.pairs.splits import Pairs
from engine.problems.splits import DataSet
from engine.reports.page import as_source
from engine.reports.sections import Card, Section

SHOWN = 12
"""Examples of each kind."""


def section(run: Material) -> Section | None:
    """Return examples that were dropped and kept; none where nobody can show one."""
    cards = shown_examples(run.data, run.curves.value, run.first_gradient)
    if not cards:
        return None
    marked = any(card.marked for group in cards.values() for card in group)
    note = (
        "Training candidates by the first metagradient. A number is the derivative of the "
        f"objective by one more copy of the example"
        f"{'; an orange frame marks one that is known to be wrong' if marked else ''}."
    )
    return Section("Examples to look at", notes=[note], cards=cards)


def shown_examples(data: DataSet, value: Tensor, score: Tensor) -> dict[str, list[Card]]:
    """Return examples by the words for them; none where nobody can show one.

    Args:
        data: Whose training candidates are shown.
        value: Count or weight of each at the chosen iterate.
        score: First metagradient of each.
    """
    train = data.splits["train"]
    can_show = isinstance(train, Pairs) or data.show is not None
    if not can_show or len(value) != len(train) or len(score) != len(train):
        return {}

    def shown(place: int) -> Card:
        image, text, name = (
            _pair(data, train, place) if isinstance(train, Pairs) else _own(data, place)
        )
        note = f"{float(score[place]):+.1e}"
        return Card(image, name, text, note, marked=bool(data.corrupted[place]))

    order = torch.argsort(score, stable=True)
    dropped = [place for place in order.flip(0).tolist() if value[place] == 0][:SHOWN]
    kept = [place for place in order.tolist() if value[place] > 0][:SHOWN]
    return {
        "Dropped: more of them would raise the objective most": [shown(p) for p in dropped],
        "Kept: more of them would lower it most": [shown(p) for p in kept],
    }


def _pair(data: DataSet, pairs: Pairs, place: int) -> tuple[str, str, str]:
    name = pairs.names[place] if pairs.names else f"pair {_number(data, place)}"
    image = as_source(_png(pairs.inputs[torch.tensor([place])][0]))
    return image, pairs.captions[place], name


def _own(data: DataSet, place: int) -> tuple[str, str, str]:
    """Return a picture, or nothing, a text, and the name of an example of a problem's own."""
    assert data.show is not None  # asked by the caller
    name = data.names[place] if data.names else f"example {_number(data, place)}"
    try:
        found: Any = data.show(place)
        if not hasattr(found, "save"):  # as pictures of Pillow have
            text = found if isinstance(found, str) else _row(found)
            return "", text[:_LONGEST], name
        stream = io.BytesIO()
        found.save(stream, format="PNG")
    except Exception as error:  # a user's code
        return "", f"It cannot be shown ({type(error).__name__}: {error}).", name
    return as_source(stream.getvalue()), name, name


def _row(found: Any) -> str:  # noqa: ANN401 (what the function returned)
    if isinstance(found, dict):
        return ", ".join(f"{name} {value}" for name, value in found.items())
    return repr(found)


def _number(data: DataSet, place: int) -> int:
    return place if data.ids is None else int(data.ids[place])


_LONGEST = 400
"""Letters of a text that are shown."""


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
