"""Pairs and two towers, as a problem."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from engine.problems.base import Problem
from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.scores import retrieval_scores
from engine.problems.pairs.splits import load_pairs
from engine.problems.pairs.towers import build_towers, own_towers
from engine.recipes.arguments.data import DataSettings
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings


def pairs_problem(
    data: DataSettings,
    model: ModelSettings | str,
    contrastive: ContrastiveSettings,
    own: Mapping[str, str | None] = MappingProxyType({}),
) -> Problem:
    """Return pairs of images and captions, and two towers that compare them.

    The objective is the contrastive loss of held-out pairs, in batches of the training's size
    unless ``contrastive.target_batch`` has another.

    Args:
        data: Which pairs, and how many are drawn for each split.
        model: The image tower, or a class of one's own in place of both towers.
        contrastive: The text tower, what both are compared by, and how files are read.
        own: Objective, validation and test to folders of their own, or to nothing.

    Raises:
        DataError: If the pairs cannot be read.
        ConfigurationError: If a setting does not fit them.
    """
    dtype = torch.get_default_dtype()
    read, tokenizer, notes = load_pairs(data, contrastive, dtype, own)
    shape = tuple(read.splits["train"].inputs.shape[1:])

    def shipped(seed: int) -> nn.Module:
        assert isinstance(model, ModelSettings)  # asked for nowhere else
        return build_towers(model, contrastive, shape, tokenizer.size, seed=seed, dtype=dtype)

    return Problem(
        model=own_towers(model, contrastive, shape, tokenizer.size)
        if isinstance(model, str)
        else shipped,
        notes=notes,
        loss=ContrastiveLoss(),
        **dict[str, Any](read.splits),
        num_classes=read.num_classes,
        corrupted=read.corrupted,
        ids=read.ids,
        bounds=read.bounds,
        fingerprint=read.fingerprint,
        chunk=contrastive.target_batch,
        score=lambda model, pairs, chunk: retrieval_scores(model, pairs, batch_size=chunk),
    )
