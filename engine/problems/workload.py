"""What the training of a recipe is about: its examples, its model, its losses and its figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.problems.splits import DataSet
from engine.types import Loss


@dataclass(frozen=True)
class Task:
    """Examples and a model that fit together.

    Attributes:
        data: All examples, on the CPU.
        model: On the CPU.
        loss: Of held-out examples: phi is its mean over the objective split.
        training_loss: Of training examples.
        score: Maps (model, held-out examples) to figures, the mean loss among them.
        chunk: Held-out examples whose losses are taken together.
        origin: What the bits depend on besides settings and data, e.g. pretrained weights.
    """

    data: DataSet
    model: nn.Module
    loss: Loss
    training_loss: Loss
    score: Callable[[nn.Module, Any], dict[str, Any]]
    chunk: int = 1000
    origin: tuple[str, ...] = ()
