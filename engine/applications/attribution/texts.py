"""Queries of a language model, each with the examples that help and harm it most, as text."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from engine.problems.passage import Passage, Texts
from engine.reports.sections import Section, Table

SHOWN = 5
"""Helpful, and harmful, examples that are shown for a query."""

LONGEST = 400
"""Characters of a text that are shown."""


def text_sections(
    texts: Texts, asked: Sequence[Passage], scores: Tensor, losses: Sequence[float]
) -> list[Section]:
    """Return a section for each query: its text, and a table of examples.

    Args:
        texts: The training examples.
        asked: The queries that are shown.
        scores: tau, shape (queries, examples).
        losses: Loss of each query at the trained model.
    """
    train = texts.splits["train"]
    return [
        Section(
            f"Query {number}: helpful and harmful examples",
            lines=[f"Query: {shown(query)}", f"Its loss: {loss:.3f} nats a token."],
            tables=[Table(rows_of(scores[number], train))],
        )
        for number, (query, loss) in enumerate(zip(asked, losses, strict=True))
    ]


def rows_of(scores: Tensor, train: Sequence[Passage]) -> list[dict[str, Any]]:
    """Return the rows of one query's table, the most helpful example first.

    A negative score says that more of the example lowers the query's loss. No example is in both
    halves, where there are few.
    """
    order = scores.argsort(stable=True).tolist()
    helpful = [index for index in order[:SHOWN] if scores[index] < 0]
    harmful = [index for index in order[: -SHOWN - 1 : -1] if scores[index] > 0]
    return [
        {
            "effect": effect,
            "loss per weight": f"{float(scores[index]):+.1e}",
            "source": train[index].source,
            "text": shown(train[index]),
        }
        for effect, found in (("helps", helpful), ("harms", harmful))
        for index in found
    ]


def shown(passage: Passage) -> str:
    """Return a passage on one line, its prompt and completion told apart, and not too long."""
    parts = (passage.prompt, passage.completion) if passage.prompt else (passage.completion,)
    text = " \u2192 ".join(" ".join(part.split()) for part in parts)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"
