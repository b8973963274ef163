"""Every query of an attribution beside the training examples that help and harm it most."""

from collections.abc import Sequence

from torch import Tensor

from engine.applications.shown_examples import candidate, held_out, together
from engine.problems.data.splits import DataSet
from engine.recipes.attribution import Queries
from engine.reports.sections import Card, Section, Table
from engine.reports.units import write_small

STRONGEST = 5
"""Helpful, and harmful, examples that are shown for a query."""

SHOWN = 4
"""Queries that are not folded."""

_NOTE = (
    "First the query, then{} the training examples whose weight lowers its loss most, and{} those "
    "whose weight raises it most. A number is the change of the query's loss in nats per unit of "
    "weight."
)
_IN_FRAMES = (" in blue frames", " in orange ones")
_IN_ROWS = ("", " below them")


def query_sections(
    data: DataSet, queries: Queries, scores: Tensor, losses: Sequence[float]
) -> list[Section]:
    """Return a section of the first queries, and a folded one of the others, if there are any.

    Args:
        data: Training examples and queries.
        queries: Which of a held-out split.
        scores: tau, shape (queries, examples).
        losses: Loss of each query at the trained model.
    """
    groups = [
        (
            f"Query {number}, of loss {losses[number]:.3f}",
            strongest(data, queries, number, scores[number]),
        )
        for number in range(len(scores))
    ]
    numbered = not data.names and data.texts is None
    in_rows = any(isinstance(shown, Table) for _, shown in groups)
    note = _NOTE.format(*(_IN_ROWS if in_rows else _IN_FRAMES))
    note += " The number after # is that of scores.csv, beside this page." * numbered
    sections = [
        Section("Helpful and harmful examples", notes=[note], examples=dict(groups[:SHOWN]))
    ]
    if len(groups) > SHOWN:
        rest = dict(groups[SHOWN:])
        sections.append(Section("The other queries", notes=[note], examples=rest, folded=True))
    return sections


def strongest(
    data: DataSet, queries: Queries, number: int, scores: Tensor
) -> Sequence[Card] | Table:
    """Return a query, the examples that help it most, and those that harm it most.

    A negative score says that more of the example lowers the query's loss. No example is in both
    halves, where there are few.

    Args:
        data: Training examples and queries.
        queries: Which split they are from.
        number: Number of the query.
        scores: Scores of every training example for the query, shape (examples,).
    """
    order = scores.argsort(stable=True).tolist()
    helpful = [place for place in order[:STRONGEST] if scores[place] < 0]
    harmful = [place for place in order[: -STRONGEST - 1 : -1] if scores[place] > 0]
    places = helpful + harmful
    return together(
        [
            held_out(data, queries.split, number, "query"),
            *(candidate(data, place, place) for place in places),
        ],
        ["", *(write_small(float(scores[place])) for place in places)],
        tones=["query", *["blue"] * len(helpful), *["orange"] * len(harmful)],
        what="loss per weight",
    )
