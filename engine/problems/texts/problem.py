"""Texts and a causal language model, as a problem."""

from typing import Any

import torch

from engine.models.losses import per_text_cross_entropy
from engine.problems.base import Problem
from engine.problems.scores import class_scores
from engine.problems.texts.model import build_language_model, embedding, origin
from engine.problems.texts.splits import load_texts
from engine.recipes.arguments.data import DataSettings
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.text import LanguageSettings, TextSettings, check_language

TEXTS_TOGETHER = 64
"""Held-out texts evaluated at a time: each has as many logits as tokens times vocabulary."""


def texts_problem(
    data: DataSettings, text: TextSettings, model: ModelSettings, language: LanguageSettings
) -> Problem:
    """Return passages as rows of tokens, and a language model that continues them.

    Raises:
        DataError: If the texts cannot be read, or are too few.
        ConfigurationError: If a package is missing, or settings do not fit together.
    """
    check_language(model, text, language)
    dtype = torch.get_default_dtype()
    read = load_texts(data, text, language)

    def make(seed: int) -> torch.nn.Module:
        return build_language_model(
            model,
            language,
            vocabulary=read.num_classes,
            num_positions=read.splits["train"].inputs.shape[1],
            seed=seed,
            dtype=dtype,
        )

    return Problem(
        model=make,
        loss=per_text_cross_entropy,
        **dict[str, Any](read.splits),
        num_classes=read.num_classes,
        ids=read.ids,
        texts=read.texts,
        fingerprint=read.fingerprint,
        chunk=TEXTS_TOGETHER,
        score=class_scores,
        embedding=embedding,
        origin=origin(language),
    )
