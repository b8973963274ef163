"""Pairs and two towers, as a recipe asks for them."""

from functools import partial

import torch

from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.scores import retrieval_scores
from engine.problems.pairs.splits import load_pairs
from engine.problems.pairs.towers import build_towers
from engine.problems.workload import Task
from engine.recipes.descent import DescentRecipe


def pairs_task(recipe: DescentRecipe, dtype: torch.dtype) -> Task:
    """Read the pairs of a recipe, and build its towers.

    The objective is the contrastive loss of held-out pairs, in batches of the training's size
    unless the recipe has another.

    Raises:
        DataError: If the pairs cannot be read.
        ConfigurationError: If a setting does not fit them.
    """
    data, tokenizer = load_pairs(recipe, dtype)
    towers = build_towers(
        recipe.model,
        recipe.contrastive,
        tuple(data.splits["train"].inputs.shape[1:]),
        tokenizer.size,
        seed=recipe.training.seed,
        dtype=dtype,
    )
    size = recipe.contrastive.target_batch or recipe.training.batch_size
    loss = ContrastiveLoss()
    return Task(data, towers, loss, loss, partial(retrieval_scores, batch_size=size), size)
