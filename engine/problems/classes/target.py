"""The task that counts: held-out examples of some classes, where training sees all."""

import torch
from torch import Tensor

from engine.errors import DataError
from engine.recipes.arguments.data import DataConfig


def keep_target(stored: dict[str, tuple[Tensor, Tensor, Tensor]], config: DataConfig) -> None:
    """Leave the target's classes only in the held-out splits.

    Args:
        stored: Split to inputs, labels and positions; changed in place.
        config: Names the classes, or none.

    Raises:
        DataError: If a split has no example of them.
    """
    if not config.target_classes:
        return
    for name in ("objective", "validation", "test"):
        kept = torch.isin(stored[name][1], torch.tensor(config.target_classes))
        if not kept.any():
            raise DataError(
                f"arguments.target_classes is {list(config.target_classes)}, but none of the "
                f"{len(kept)} {name} examples is of these classes. Name classes that "
                f"{config.name.value} has, or raise arguments.num_{name}."
            )
        inputs, labels, ids = stored[name]
        stored[name] = (inputs[kept], labels[kept], ids[kept])
