"""Pairs in a report: the right ones, with their captions as text."""

import torch

from engine.applications.descent.report import render
from engine.applications.descent.shown_pairs import shown_pairs
from engine.problems.pairs.splits import Pairs
from engine.problems.splits import DataSet
from tests.made_records import make_record

NAMES = ("s/0", "s/1", "s/2", "s/3")


def data(channels=3):
    drawn = torch.Generator().manual_seed(0)
    pairs = Pairs(
        torch.rand(4, channels, 5, 5, generator=drawn),
        torch.zeros(4, 2, dtype=torch.int64),
        torch.arange(4),
        ("<script>alert(1)</script>", "a & b", "$x_1$", "plain"),
        NAMES,
    )
    wrong = torch.tensor([True, False, False, False])
    return DataSet({"train": pairs}, 4, wrong, "", None, torch.arange(4))


def test_dropped_and_kept_pairs_are_ranked_by_what_one_more_copy_does():
    """The page shows which pairs the metagradient speaks of, worst and best first."""
    found = shown_pairs(data(), torch.tensor([0, 1, 0, 1]), torch.tensor([2.0, -1.0, 3.0, -4.0]))

    dropped, kept = found.values()
    assert [pair.name for pair in dropped] == ["s/2", "s/0"]
    assert [pair.name for pair in kept] == ["s/3", "s/1"]
    assert [pair.wrong for pair in dropped] == [False, True]


def test_captions_of_strangers_are_escaped_in_the_page():
    """Captions of the web hold anything, also scripts."""
    found = shown_pairs(data(), torch.tensor([0, 1, 0, 1]), torch.tensor([2.0, -1.0, 3.0, -4.0]))

    page = render(make_record(), {}, found)

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &amp; b" in page
    assert page.count('<figure class="wrong">') == 1


def test_examples_that_are_no_pairs_show_none():
    """Other reports have no such section."""
    assert shown_pairs(data(), torch.ones(3), torch.ones(3)) == {}
