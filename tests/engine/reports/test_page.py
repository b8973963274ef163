"""Pages: what is text stays text, what is a figure says what it shows, and nothing is cut off."""

import base64
import re

import pytest

from engine.reports.page import (
    ROWS,
    as_html,
    as_image,
    as_markdown,
    figures_as_markdown,
    steps,
    with_section,
)
from engine.reports.sections import Card, Drawing, Figure, Number, Page, Section, Table
from engine.reports.shown_figures import figures_of

HOSTILE = """<script>alert("x")</script><img src=x onerror='y'> | `a` *b* [c](javascript:d)"""


DRAWN = Drawing('<svg class="a"></svg>', '<svg class="b"></svg>')


def page(**fields):
    known = {"title": "Title", "run": "run-01234567", "headline": "It went well."}
    return Page(**{**known, **fields})


def everything(text):
    """A page in whose every place a text stands."""
    table = Table([{text: text, "b": text}], code=frozenset({"b"}))
    section = Section(
        text,
        notes=[text],
        lines=[text],
        figures=[Figure(DRAWN, text, text)],
        tables=[table, Table([{"what": text, "": text}], pairs=True)],
        examples={
            text: [Card({}, text, text, text, marked=True), Card({text: "data:,"}, text, text)],
            text + " ": table,
        },
        chips={text: text},
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
    assert len(re.findall(r"<img ", written)) == 1


def test_no_name_becomes_markup_in_markdown():
    """The UI renders Markdown, and HTML in it; a pipe would end a cell."""
    written = as_markdown(everything(HOSTILE))

    assert "<" not in written.replace("<br>", "")  # between the lines of a head
    assert not re.search(r"(?<!\\)[`\[*](?!\*)[a-c]", written)
    tables = re.findall(r"(?:^\|.*\n?)+", written, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1


@pytest.mark.parametrize("write", [as_html, as_markdown])
def test_no_login_of_a_text_is_in_a_page(write):
    """A page is sent to others, and a description or an error may hold one."""
    written = write(everything("at https://alice:S3CRET@host, as alice:S3CRET@db.example.org"))

    assert "S3CRET" not in written
    assert written.count("@db.example.org") >= 10
    assert len(re.findall("<img ", written)) == 1 or write is as_markdown


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_says_what_it_shows(alt):
    """Whoever cannot see it must not find an empty place."""
    with pytest.raises(ValueError, match="alternative text"):
        Figure(DRAWN, alt)


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
    both = Table([{"key": "a", "here": "60", "as it ships": "not set"}, {"key": "b", "here": "2"}])
    assert list(both.columns.values()) == ["word", "number", "number"]  # or one leans on the other
    assert table.stacks
    assert not Table([{"a": 1, "b": 2, "c": 3}]).stacks
    run = "digits-selection-0123abcd"  # runs side by side
    assert Table([{"number": "loss", run: "0.4", f"{run}-2": "0.5"}]).stacks


def test_heads_in_words_begin_with_a_capital_letter():
    """Tables of one page had both; a symbol, a key and what somebody has called are no words."""
    row = {"as it ships": 1, "AUC": 2, "z (metaparameters)": 3, "training.seed": 4, "colour": 5}
    table = Table([row], named=frozenset({"colour"}))

    heads = ["As it ships", "AUC", "z (metaparameters)", "training.seed", "colour"]
    content = page(sections=[Section("S", tables=[table])])
    written = as_html(content)
    assert re.findall(r"<th[^>]*>([^<]*)</th>", written) == heads
    assert re.findall(r'data-label="([^"]*)"', written) == heads
    assert f"| {' | '.join(heads[:2])} | z<br>(metaparameters) |" in as_markdown(content)


def test_a_figure_of_a_table_is_not_broken_from_its_unit():
    """A phone showed "19.4" above "s" in each row of a plan."""
    row = {"schedule": "k-ary, 4 parts", "store": "2.4 MB", "run": "19.4 s", "steps": "220 + 20"}

    shown = as_markdown(page(sections=[Section("S", tables=[Table([row])])]))

    assert "| k-ary, 4 parts | 2.4\u00a0MB | 19.4\u00a0s | 220 + 20 |" in shown


def test_a_table_without_rows_is_left_out():
    """An empty head would ask what is missing."""
    empty = page(sections=[Section("Empty", tables=[Table([])])])

    assert "<table" not in as_html(empty)
    assert "|" not in as_markdown(empty)


def test_markdown_says_when_a_page_was_written_and_what_was_asked():
    """A run that was killed takes nothing back, and says by that alone that it stands still."""
    asked = Section("Settings of the run", chips={"outer.num_steps": "7", "training.seed": "1"})

    shown = as_markdown(page(sections=[asked]))

    assert page().run in shown
    assert "outer.num\\_steps: 7; training.seed: 1" in shown


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
    assert "- loss: **0.5** (1.0 before)" in written  # a table of three is cut on a phone
    assert "... and 3 rows more." in written
    assert "closed" not in written


def test_markdown_has_commands_and_says_what_stands_in_the_report_alone():
    """The page of a run that had stopped in the UI had no command that goes on."""
    sections = [
        Section("How it goes on", commands={"mgd resume a-1 --store s": "To go on"}),
        Section("All settings", lines=["closed"], folded=True),
    ]

    written = as_markdown(page(sections=sections))

    assert "To go on:\n\n```\nmgd resume a-1 --store s\n```" in written
    assert written.endswith("Only in the report: All settings.")


def test_a_section_of_a_written_page_is_replaced_as_if_it_had_been_there():
    """A certificate comes hours after the page, when what drew the figures may be gone."""
    old = [Section("First", lines=["a"]), Section("How sure it is", lines=["not yet"])]
    last, new = Section("Last", folded=True), Section("How sure it is", lines=[HOSTILE])

    found = with_section(as_html(page(sections=[*old, last])), new)

    assert found == as_html(page(sections=[old[0], new, last]))
    assert with_section(as_html(page(sections=[last])), new) is None


def test_figures_of_a_written_page_are_found_with_what_they_show():
    """The UI shows them where no browser reads the store."""
    figures = [Figure(DRAWN, HOSTILE), Figure(DRAWN, "Two.", "How to read it.")]

    found = figures_of(as_html(page(sections=[Section("S", figures=figures)])))

    drawn = DRAWN.wide.encode()
    assert [(each.alt, each.image) for each in found] == [(HOSTILE, drawn), ("Two.", drawn)]
    shown = as_image(found[0].alt, found[0].image, found[0].media_type)
    assert "<" not in shown
    assert shown.count("](data:image/svg+xml;base64,") == 1
    assert "](javascript:" not in shown.replace("\\](", "")


def test_figures_of_a_written_page_keep_their_headings_and_captions_in_the_ui():
    """Five pictures one below the other said nothing of what they show."""
    figures = [Figure(DRAWN, "One.", "How to read it."), Figure(DRAWN, "Two.")]
    sections = [Section("S", figures=figures), Section(HOSTILE, figures=figures[:1])]

    shown = figures_as_markdown(figures_of(as_html(page(sections=sections))))

    assert [line for line in shown.splitlines() if line.startswith("### ")][0] == "### S"
    assert shown.count("### ") == shown.count("How to read it.") == 2
    assert shown.index("![One.]") < shown.index("How to read it.") < shown.index("![Two.]")
    assert "<" not in shown


def test_the_chosen_row_of_a_long_table_is_shown_in_the_ui():
    """Of a hundred outer steps the first twenty were, and not what came of the run."""
    rows = [{"step": number, "chosen": "*" * (number == 77)} for number in range(101)]

    shown = as_markdown(page(sections=[Section("S", tables=[Table(rows, marked={77: "chosen"})])]))

    assert "| 77 | \\* |" in shown
    assert "| 0 |  |" in shown
    assert "| 100 |  |" in shown
    assert f"{ROWS + 1} of 101 rows" in shown
    assert shown.count("\n| ") <= ROWS + 4


def test_a_page_that_grows_is_loaded_again_and_one_that_is_done_is_not():
    """A reader of a finished report must not lose the place."""
    assert 'http-equiv="refresh" content="20"' in as_html(page(refresh=20))
    assert "refresh" not in as_html(page())


def test_headings_are_in_order_and_what_scrolls_is_reached_by_keys():
    """Whoever hears a page goes by its headings; whoever has no mouse scrolls by keys."""
    written = as_html(everything("x"))

    levels = [int(level) for level in re.findall(r"<h([1-6])>", written)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    boxes = re.findall(r'<div class="box[^>]*>', written)
    assert boxes
    assert all('tabindex="0"' in box and "aria-label=" in box for box in boxes)
    assert '<html lang="en">' in written
    assert '<a class="skip" href="#content">' in written


def test_halves_of_characters_end_no_run():
    """A name of a file may hold bytes that are no text, which reports and Prefect cannot write."""
    page = Page(title="a\udce9", run="b", headline="c\ud83d", findings=["d\x00"])

    for text in (as_html(page), as_markdown(page)):
        assert text.encode().decode() == text
        assert "ud83d" in text
        assert "\x00" not in text  # of which PostgreSQL says that it is no text


def test_figures_in_the_ui_are_those_for_a_phone():
    """Prefect made the wide ones as narrow as a phone: their letters were 6 px high."""
    drawing = Drawing(wide="<svg>wide</svg>", narrow="<svg>narrow</svg>")
    written = page(
        sections=[Section("S", figures=[Figure(drawing, "One."), Figure(drawing, "Two.")])]
    )

    growing = as_markdown(written)
    ended = figures_as_markdown(figures_of(as_html(written), narrow=True))

    for shown in (growing, ended):
        images = [base64.b64decode(each) for each in re.findall(r"base64,([\w+/=]+)", shown)]
        assert images == [b"<svg>narrow</svg>"] * 2
    assert [each.image for each in figures_of(as_html(written))] == [b"<svg>wide</svg>"] * 2


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("image 7", ["image 7"]),
        ("red/left_hand.png", ["red/", "left_", "hand.png"]),
        ("symbols/letters/upper/E_outline.png", ["symbols/", "\u2026/", "E_", "outline.png"]),
    ],
)
def test_a_name_below_a_picture_ends_its_lines_where_its_words_end(name, parts):
    """A path through five folders was a column of eight lines, each cut in a word."""
    section = Section("Examples", examples={"Kept": [Card({"": "data:,"}, name)]})

    written = as_html(page(sections=[section]))

    assert "<wbr>".join(parts) in written
    assert f'title="{name}"' in written


def test_a_login_in_a_name_is_hidden_before_it_is_taken_apart():
    """Its parts are no address any more, in which one would be looked for."""
    assert "secret" not in "".join(steps("https://me:secret@host/a/b.png"))
