"""What is measured of a page is found: a measure that sees nothing would pass every page."""

import pytest

from engine.reports.page import as_html
from engine.reports.sections import Drawing, Figure, Page, Section
from tests.measured_pages import faults, open_browser

pytestmark = pytest.mark.servers  # a browser, whose fonts are those of the machine


def measured(tmp_path, svg):
    """What is wrong with a page of one figure."""
    figure = Figure(Drawing(svg, svg), "A figure that shows something.")
    page = Page("Title", "run", "It went well.", sections=[Section("One", figures=[figure])])
    place = tmp_path / "page.html"
    place.write_text(as_html(page))
    with open_browser() as browser:
        return faults(browser, place.as_uri())


def drawn(*texts, size=12):
    """A drawing of texts at places, as wide as a figure of a phone."""
    inside = "".join(f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in texts)
    return f'<svg viewBox="0 0 355 100" style="font-size: {size}px">{inside}</svg>'


def test_a_page_without_a_fault_has_none(tmp_path):
    """Texts beside and below one another are apart."""
    svg = drawn((10, 20, "one"), (80, 20, "two"), (10, 40, "three"))

    assert measured(tmp_path, svg) == {"screen": [], "phone": [], "paper": []}


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
