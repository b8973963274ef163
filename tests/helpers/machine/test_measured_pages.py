"""What is measured of a page is found: a measure that sees nothing would pass every page."""

import pytest

from engine.applications.shown_examples import ShownExample, together
from engine.reports.page import as_html
from engine.reports.sections import Drawing, Figure, Page, Section, Table
from tests.helpers.machine.measured_pages import (
    DARK,
    NO_FAULTS,
    PAPER,
    WIDTHS,
    faults,
    open_browser,
)

pytestmark = pytest.mark.servers  # a browser, whose fonts are those of the machine


def measured(tmp_path, svg, *more, spoil=("", "")):
    """What is wrong with a page of one figure and of more sections."""
    figure = Figure(Drawing(svg, svg), "A figure that shows something.")
    sections = [Section("One", figures=[figure]), *more]
    page = Page("Title", "run", "It went well.", sections=sections)
    place = tmp_path / "page.html"
    place.write_text(as_html(page).replace(*spoil))
    with open_browser() as browser:
        return faults(browser, place.as_uri())


def drawn(*texts, size=12):
    """A drawing of texts at places, as wide as a figure of a phone."""
    inside = "".join(f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in texts)
    return (
        f'<svg viewBox="0 0 355 100" style="font-size: {size}px; fill: var(--text)">{inside}</svg>'
    )


def test_a_page_without_a_fault_has_none(tmp_path):
    """Texts beside and below one another are apart."""
    svg = drawn((10, 20, "one"), (80, 20, "two"), (10, 40, "three"))

    assert measured(tmp_path, svg) == NO_FAULTS


@pytest.mark.parametrize(
    ("svg", "fault"),
    [
        (drawn((10, 20, "one"), (15, 22, "two")), "overlap: one / two"),
        (drawn((330, 20, "a long name")), "beyond the edge: a long name"),
        (drawn((10, 20, "small"), size=4), "px: small"),
    ],
)
def test_a_fault_of_a_figure_is_found(tmp_path, svg, fault):
    """Each of them was in a report once."""
    found = measured(tmp_path, svg)

    assert any(fault in each for each in found["phone"])


@pytest.mark.parametrize(
    ("section", "spoil", "fault"),
    [
        (Section("Two"), ("", ""), "nothing below the heading: Two"),
        (Section("Two", notes=["A."]), ('id="two"', ""), "a link to nothing: Two"),
        (Section("Two", notes=["A."]), ("A.", '<img alt="digit" src="x.png">'), "no picture"),
    ],
)
def test_what_is_empty_is_found(tmp_path, section, spoil, fault):
    """A heading, a link and a picture promise something."""
    found = measured(tmp_path, drawn((10, 20, "one")), section, spoil=spoil)

    assert all(any(fault in each for each in found[where]) for where in (*WIDTHS, DARK))


@pytest.mark.parametrize(
    ("spoil", "where"), [(("--soft: #595959", "--soft: #ccc"), "screen"),
                         (("--soft: #adadad", "--soft: #444"), DARK)],
)  # fmt: skip
def test_a_pale_text_is_found_in_its_scheme(tmp_path, spoil, where):
    """Whoever reads in the dark sees other colours."""
    found = measured(tmp_path, drawn((10, 20, "one")), Section("Two", notes=["A."]), spoil=spoil)

    assert any(each.startswith("contrast") for each in found[where])
    assert not any(
        each.startswith("contrast") for each in found[{"screen": DARK}.get(where, "screen")]
    )


def test_a_data_set_of_many_columns_with_long_names_is_read_everywhere(tmp_path):
    """A table of 120 columns was 11,000 px wide on paper; the label is shown whatever there is."""
    columns = {
        f"measurement_of_sensor_{n}_in_the_hall_behind_the_river": "0.1234" for n in range(120)
    }
    row = columns | {"label": "a customer who will probably leave before long"}
    shown = together([ShownExample(f"#{n}", row=row) for n in range(3)], ["+1e-3"] * 3)

    found = measured(tmp_path, drawn((10, 20, "one")), Section("Two", examples={"Kept": shown}))

    assert isinstance(shown, Table)
    assert "label" in shown.columns
    assert "and 115 more columns" in shown.columns
    assert found == NO_FAULTS


def test_what_is_folded_takes_no_page_of_its_own_on_paper(tmp_path):
    """A report of digits-schedule had a fifth page for one heading, which opens nothing there."""
    folded = [
        Section(f"Folded {number}", tables=[Table([{"a": 1}])], folded=True) for number in range(4)
    ]
    page = Page("Title", "run", "It went well.", sections=folded)
    place = tmp_path / "page.html"
    place.write_text(as_html(page))
    heights = (
        "[...document.querySelectorAll('details')].map(each => each.getBoundingClientRect().top)"
    )

    with open_browser() as browser:
        browser.set_viewport_size({"width": PAPER, "height": 900})
        browser.goto(place.as_uri())
        on_screen = browser.evaluate(heights)
        browser.emulate_media(media="print")
        on_paper = browser.evaluate(heights)

    assert len(set(on_screen)) == 4
    assert len(set(on_paper)) == 1
