"""The target task: held-out examples of some classes only, while training sees all classes."""

import torch
from torch import Tensor

from engine.errors import DataError
from engine.recipes.arguments.data import DataSettings


def keep_target(stored: dict[str, tuple[Tensor, Tensor, Tensor]], settings: DataSettings) -> None:
    """Leave the target's classes only in the held-out splits.

    Args:
        stored: Split to inputs, labels and positions; changed in place.
        settings: Names the classes, or none.

    Raises:
        DataError: If a split has no example of them.
    """
    if not settings.target_classes:
        return
    for name in ("objective", "validation", "test"):
        kept = torch.isin(stored[name][1], torch.tensor(settings.target_classes))
        if not kept.any():
            raise DataError(
                f"arguments.target_classes is {list(settings.target_classes)}, but none of the "
                f"{len(kept)} {name} examples is of these classes. Name classes that "
                f"{settings.name.value} has, or raise arguments.num_{name}."
            )
        inputs, labels, ids = stored[name]
        stored[name] = (inputs[kept], labels[kept], ids[kept])
