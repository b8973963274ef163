"""Texts and a causal language model, as a problem."""

from collections.abc import Mapping
from typing import Any

from engine.models.losses import per_text_cross_entropy
from engine.problems.base import Problem
from engine.problems.data.splits import Examples, check_examples
from engine.problems.passage import Passage, Texts
from engine.problems.scores import class_scores
from engine.problems.texts.learner import Models, learner
from engine.problems.texts.splits import draw_texts, tokenizer_of
from engine.problems.texts.tokens import encode
from engine.recipes.arguments.data import DataSettings
from engine.recipes.arguments.text import TextSettings, check_language

TEXTS_TOGETHER = 64
"""Held-out texts evaluated at a time: each has as many logits as tokens times vocabulary."""


def texts_problem(
    data: DataSettings, text: TextSettings, models: Models, own: Mapping[str, str | None]
) -> Problem:
    """Return passages as rows of tokens, and a language model that continues them.

    Args:
        data: How many texts are drawn for each split, and by which seed.
        text: The files, how they are cut, and what cuts texts into tokens.
        models: Sizes of a new model or a class of one's own, and which model it is.
        own: Objective, validation and test to their own files, or to nothing.

    Raises:
        DataError: If the texts cannot be read, or are too few.
        ConfigurationError: If a package is missing, or settings do not fit together.
    """
    check_language(models[0], text, models[1])
    drawn = draw_texts(data, text, own)
    return language_problem(drawn.splits, text, models, ids=drawn.ids, notes=drawn.notes)


def language_problem(
    splits: dict[str, list[Passage]],
    text: TextSettings,
    models: Models,
    **parts: Any,  # noqa: ANN401 (of Problem)
) -> Problem:
    """Return passages of each split as rows of tokens, and a language model that continues them.

    Inputs and labels have the shape (examples, tokens), see ``engine.problems.texts.tokens``.

    Args:
        splits: Split to its passages; ``train`` and ``objective``, and perhaps the others.
        text: Separator, longest sequence and vocabulary.
        models: Sizes of a new model or a class of one's own, and which model it is.
        **parts: Further parts of the problem.

    Raises:
        DataError: If nothing is left of a text.
        ConfigurationError: If a package is missing, or the model cannot be made.
    """
    tokenizer = tokenizer_of(text, models[1], splits["train"])
    encoded = encode(splits, tokenizer, separator=text.separator, max_tokens=text.max_tokens)
    examples = {name: Examples(*both) for name, both in encoded.columns.items()}
    for name, each in examples.items():
        check_examples(each.inputs, each.labels, origin=f"the texts ({name})")
    model = learner(models, tokenizer.size, encoded.columns["train"][0].shape[1])
    parts["notes"] = (*parts.get("notes", ()), *_cut_notes(encoded.unanswered, splits, text))
    return Problem(
        loss=per_text_cross_entropy,
        num_classes=tokenizer.size,
        texts=Texts.of(splits),
        chunk=TEXTS_TOGETHER,
        score=class_scores,
        **model._asdict(),
        **dict[str, Any](examples),
        **parts,
    )


def _cut_notes(cut: int, splits: dict[str, list[Passage]], text: TextSettings) -> tuple[str, ...]:
    """Say how many answers lose their end. A plain text that is cut teaches what is left of it."""
    total = sum(bool(each.prompt) for passages in splits.values() for each in passages)
    return (
        f"{cut} of {total} answers do not end within arguments.max_tokens={text.max_tokens}, so "
        "that their last tokens are neither learned nor scored. Raise it for whole answers.",
    )[: bool(cut)]
