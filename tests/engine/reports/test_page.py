"""Pages: what is text stays text, what is a figure says what it shows, and nothing is cut off."""

import re

import pytest

from engine.reports.page import ROWS, as_html, as_markdown
from engine.reports.sections import Card, Figure, Number, Page, Section, Table

HOSTILE = """<script>alert("x")</script><img src=x onerror='y'> | `a` *b* [c](javascript:d)"""


def page(**fields):
    known = {"title": "Title", "run": "run-01234567", "verdict": "It went well."}
    return Page(**{**known, **fields})


def everything(text):
    """A page in whose every place a text stands."""
    table = Table([{text: text, "b": text}], code=frozenset({"b"}))
    section = Section(
        text,
        notes=[text],
        lines=[text],
        figures=[Figure(b"png", text, text)],
        tables=[table, Table([{"what": text, "": text}], pairs=True)],
        cards={text: [Card("", text, text, text, marked=True), Card("data:,", text, text)]},
        commands={text: text},
    )
    folded = Section(text + " ", lines=[text], folded=True)
    return Page(text, text, text, [Number(text, text, text)], [text], [text], [section, folded])


def test_no_name_becomes_markup_in_html():
    """Names come from recipes, data sets and stores of anybody."""
    written = as_html(everything(HOSTILE))

    assert "<script" not in written
    assert "<img src=x" not in written
    assert written.count("&lt;script&gt;") >= 25
    assert len(re.findall(r"<img ", written)) == 2


def test_no_name_becomes_markup_in_markdown():
    """The UI renders Markdown, and HTML in it; a pipe would end a cell."""
    written = as_markdown(everything(HOSTILE))

    assert "<" not in written
    assert not re.search(r"(?<!\\)[`\[*](?!\*)[a-c]", written)
    tables = re.findall(r"(?:^\|.*\n?)+", written, re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_says_what_it_shows(alt):
    """Whoever cannot see it must not find an empty place."""
    with pytest.raises(ValueError, match="alternative text"):
        Figure(b"png", alt)


def test_columns_are_written_by_what_they_hold():
    """Numbers stand below one another and are not broken; texts and intervals wrap."""
    table = Table(
        [
            {"a": "1", "n": "0.1", "x": "", "i": "0.1 [0.0, 0.2]", "w": "yes", "t": "word " * 9},
            {"a": "2", "n": "-2e-3", "x": "-", "i": "-", "w": "no", "t": ""},
        ]
    )

    kinds = ["word", "number", "number", "interval", "word", "text"]
    assert list(table.columns.values()) == kinds
    assert table.stacks
    assert not Table([{"a": 1, "b": 2, "c": 3}]).stacks


def test_a_table_without_rows_is_left_out():
    """An empty head would ask what is missing."""
    assert "<table" not in as_html(page(sections=[Section("Empty", tables=[Table([])])]))


def test_a_page_opens_and_leads_to_what_is_not_folded():
    """The table of contents has what people read; the rest is closed."""
    sections = [Section("One & two"), Section("Three", folded=True)]

    written = as_html(page(sections=sections))

    assert re.findall(r'<a href="#([^"]*)">([^<]*)', written) == [("one-two", "One &amp; two")]
    assert '<details id="three">' in written
    assert "<details open" not in written
    assert "prefers-color-scheme: dark" in written
    assert "@media print" in written


def test_markdown_has_what_is_not_folded_and_says_how_many_rows_it_left_out():
    """An artifact of Prefect is read in a narrow column."""
    rows = Table([{"a": number} for number in range(ROWS + 3)])
    sections = [Section("Shown", tables=[rows]), Section("Folded", lines=["closed"], folded=True)]

    written = as_markdown(page(numbers=[Number("loss", "0.5", "1.0 before")], sections=sections))

    assert written.startswith("**It went well.**")
    assert "| loss |" in written
    assert "... and 3 rows more." in written
    assert "closed" not in written
