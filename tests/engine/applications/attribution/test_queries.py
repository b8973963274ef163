"""Queries in a report: every one, beside the examples that help and harm it most."""

import re

import torch

from engine.applications.attribution.queries import SHOWN, STRONGEST, query_sections, strongest
from engine.applications.shown_examples import LONGEST, one_line
from engine.problems.data.splits import DataSet, Examples
from engine.problems.passage import Passage, Texts
from engine.recipes.attribution import Queries, QuerySplit
from engine.reports.page import as_html
from engine.reports.sections import Page


def passages(source, *texts):
    return [Passage("", text, source, f"{source}.txt", line) for line, text in enumerate(texts, 1)]


def texts_of(query):
    """Five passages, and one query."""
    train = passages("it", "uno", "due") + passages("de", "<eins>", "zwei", "drei")
    tokens = {"train": Examples(torch.zeros(5, 2), torch.zeros(5, 2))}
    return DataSet(
        tokens | {"test": Examples(torch.zeros(1, 2), torch.zeros(1, 2))},
        0,
        torch.zeros(5, dtype=torch.bool),
        "",
        ids=torch.arange(5) + 100,
        texts=Texts.of({"train": train, "test": [query]}),
    )


def pictures(number):
    """Eleven pictures, and as many queries as are asked for."""
    drawn = torch.rand(11, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    splits = {
        "train": Examples(drawn, torch.arange(11)),
        "test": Examples(drawn[:1].expand(number, 1, 4, 4), torch.arange(number)),
    }
    return DataSet(splits, 11, torch.zeros(11, dtype=torch.bool), "", ids=torch.arange(11) + 100)


def queries(number):
    return Queries(split=QuerySplit.TEST, number=number)


def test_helpful_texts_come_first_and_no_text_is_both():
    """Negative scores help; an example without effect is shown on neither side."""
    data = texts_of(Passage("", "quattro", "it", "it.txt", 9))

    found = strongest(data, queries(1), 0, torch.tensor([0.2, 0.0, -0.3, 0.1, -0.1]))

    assert [(each.tone, each.name, each.text) for each in found] == [
        ("query", "it, line 9", "quattro"),
        ("blue", "de, line 1", "<eins>"), ("blue", "de, line 3", "drei"),
        ("orange", "it, line 1", "uno"), ("orange", "de, line 2", "zwei"),
    ]  # fmt: skip


def test_texts_in_a_report_are_escaped_and_short():
    """A text is the user's, and may hold anything that a browser would run."""
    query = Passage("a <b>", "\n c" * 400, "it", "it.txt", 1)
    sections = query_sections(texts_of(query), queries(1), -torch.ones(1, 5), [1.5])

    page = as_html(Page("t", "run", "Good.", sections=sections))

    assert "a &lt;b&gt; \u2192 c c" in page
    assert "&lt;eins&gt;</span>" in page
    assert "<eins>" not in page
    assert len(one_line(query)) == LONGEST


def test_every_query_is_there_and_those_after_the_first_ones_are_folded():
    """Twenty queries are asked; a report that shows the first alone hides the rest."""
    number = SHOWN + 3
    scores = torch.linspace(-1, 1, 11).expand(number, 11)

    first, rest = query_sections(pictures(number), queries(number), scores, [0.5] * number)

    assert (len(first.examples), len(rest.examples)) == (SHOWN, 3)
    assert (first.folded, rest.folded) == (False, True)
    for cards in [*first.examples.values(), *rest.examples.values()]:
        assert [card.tone for card in cards] == [
            "query", *["blue"] * STRONGEST, *["orange"] * STRONGEST,
        ]  # fmt: skip
        # The number is the row of scores.csv, not the id in the data set.
        assert [card.name for card in cards[1:3]] == ["#0", "#1"]
        assert all(card.images[""].startswith("data:image/png;base64,") for card in cards)
    page = as_html(Page("t", "run", "Good.", sections=[first, rest]))
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == number * (1 + 2 * STRONGEST)


def test_words_name_frames_only_where_there_are_some():
    """Rows of a table have none: what helps stands above what harms."""
    rows = {
        split: Examples(torch.rand(count, 3), torch.arange(count))
        for split, count in (("train", 5), ("test", 1))
    }
    table = DataSet(rows, 5, torch.zeros(5, dtype=torch.bool), "", ids=torch.arange(5))
    scores = torch.tensor([[0.2, 0.0, -0.3, 0.1, -0.1]])

    (of_rows,) = query_sections(table, queries(1), scores, [0.5])
    (of_pictures,) = query_sections(pictures(1), queries(1), torch.randn(1, 11), [0.5])

    assert "frames" not in of_rows.notes[0]
    assert "lowers its loss most, and below them those" in of_rows.notes[0]
    assert "in blue frames" in of_pictures.notes[0]
    assert "in orange ones" in of_pictures.notes[0]
