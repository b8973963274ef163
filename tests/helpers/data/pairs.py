"""Pairs of small images and captions, towers for them, and runs on them, in float64."""

import torch
from torch import Tensor

from engine import Routine, sgd
from engine.metaparameters.base import Metaparameter
from engine.problems.pairs.captions import BEGIN, END
from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.towers import TwoTowers, build_towers
from engine.recipes.arguments.model import ModelName, ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.routine.outputs import MeanLoss

SETTINGS = ContrastiveSettings(
    context=6,
    embedding=6,
    text_width=8,
    text_depth=1,
    text_heads=2,
    vocabulary=12,
    # At 0.07 a pair of weight 0 meets exp(2 / 0.07) of itself, too steep for a difference.
    temperature=0.5,
)


def pairs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of noise, and captions of two to four tokens."""
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 4, 4, generator=drawn, dtype=torch.float64)
    tokens = torch.randint(4, SETTINGS.vocabulary, (count, SETTINGS.context), generator=drawn)
    tokens[:, 0] = BEGIN
    for row, end in zip(tokens, torch.randint(2, 5, (count,), generator=drawn), strict=True):
        row[end], row[end + 1 :] = END, 0
    return images, tokens


def towers(**changes: object) -> TwoTowers:
    """An MLP and a transformer of one block."""
    settings = SETTINGS.model_copy(update=changes)
    model = ModelSettings(name=ModelName.MLP, width=8, depth=1)
    return build_towers(model, settings, (1, 4, 4), 12, seed=0, dtype=torch.float64)


def output() -> MeanLoss:
    """The loss of held-out pairs, in batches of six."""
    return MeanLoss(ContrastiveLoss(), pairs(12, seed=1), 6)


def routine(kind: Metaparameter, **changes: object) -> Routine:
    """A run of eight steps on 20 pairs."""
    settings: dict[str, object] = {
        "model": towers(),
        "loss": ContrastiveLoss(),
        "examples": pairs(20),
        "optimizer": sgd(0.9),
        "learning_rate": 0.02,
        "num_steps": 8,
        "batch_size": 6,
        "metaparameters": {"z": kind},
    }
    return Routine(**(settings | changes))  # pyright: ignore[reportArgumentType] (a test's settings)
