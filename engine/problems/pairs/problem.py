"""Pairs and two towers, as a problem."""

from typing import Any

import torch

from engine.problems.base import Problem
from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.scores import retrieval_scores
from engine.problems.pairs.splits import load_pairs
from engine.problems.pairs.towers import build_towers
from engine.recipes.arguments.data import DataSettings
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings


def pairs_problem(
    data: DataSettings, model: ModelSettings, contrastive: ContrastiveSettings
) -> Problem:
    """Return pairs of images and captions, and two towers that compare them.

    The objective is the contrastive loss of held-out pairs, in batches of the training's size
    unless ``contrastive.target_batch`` has another.

    Raises:
        DataError: If the pairs cannot be read.
        ConfigurationError: If a setting does not fit them.
    """
    dtype = torch.get_default_dtype()
    read, tokenizer = load_pairs(data, contrastive, dtype)
    shape = tuple(read.splits["train"].inputs.shape[1:])
    return Problem(
        model=lambda seed: build_towers(
            model, contrastive, shape, tokenizer.size, seed=seed, dtype=dtype
        ),
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
