"""Figures of names from outside: none of them is a formula, and powers of ten stay readable."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from engine.applications.descent.figures.sources import draw_sources
from engine.applications.descent.source_shares import SourceShare
from engine.reports.canvas import (
    BLUE,
    NARROW,
    WIDTH,
    _power,
    cut_name,
    drawn_at,
    is_narrow,
    log_scale,
    new_figure,
    png,
    scale,
    short_names,
    whole_numbers,
)
from engine.reports.vector import vector

NAMES = ["price $5 and $\\frac{$", "a$b_{$c", "$\\mathdefault{" * 3, "\\$x$", "{}", "%s", "a\nb"]

NO_CHARACTERS = ["a\x00b", "\x1b]52;c;cm0=\x07", "half of \ud83d", "\ufffe", "\x7f\x85", "\u202eb"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dollar_in_a_name_is_a_sign_like_any_other(name):
    """It ended finished runs at their report, every time."""
    shares = [
        SourceShare(name=each, candidates=5, before=0.5, after=0.4, dropped=1)
        for each in (name, "other")
    ]
    figure = draw_sources(shares)

    image = png(figure)

    assert image.startswith(b"\x89PNG")
    shown = figure.axes[0].get_yticklabels()[0].get_text()
    assert shown == name if len(name) <= 40 else len(shown) == 40


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_every_place_are_no_formulas(name):
    """Titles, labels, legends, ticks and notes take names of layers, corpora and runs."""
    figure, (axes,) = new_figure(3.0)
    axes.plot([1, 2], [1, 2], label=name)
    axes.set(title=name, xlabel=name, ylabel=name)
    axes.set_xticks([1, 2], [name, "b"])
    axes.annotate(name, (1, 1))
    axes.legend()
    figure.suptitle(name)

    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", NO_CHARACTERS, ids=ascii)
def test_what_is_no_character_in_a_name_ends_no_run(name):
    """A drawing of a page is XML, which cannot hold them; a name of a file or a corpus can."""
    shares = [
        SourceShare(name=each, candidates=5, before=0.5, after=0.4, dropped=1)
        for each in (name, "other")
    ]

    assert png(draw_sources(shares)).startswith(b"\x89PNG")
    for svg in (vector(lambda: draw_sources(shares)), vector(lambda: drawn(name))):
        assert "\x1b" not in svg.wide
        ElementTree.fromstring(svg.narrow.encode())


HOSTILE = "<script>alert(1)</script> & --> ]]> $x$"


def drawn(name="name"):
    """A figure with a text in every place, as it is drawn for the room there is."""
    figure, (left, _) = new_figure(2.0, columns=2)
    left.plot([1, 2], [1, 2], label=name, color=BLUE)
    left.set(title=name, xlabel=name, ylabel=name)
    left.set_xticks([1, 2], [name, "b"])
    left.legend(frameon=False)
    return figure


def test_no_name_becomes_markup_in_a_drawing():
    """It stands in the page as it is, so that it is the one place that no template escapes."""
    for svg in (vector(lambda: drawn(HOSTILE)).wide, vector(lambda: drawn(HOSTILE)).narrow):
        root = ElementTree.fromstring(svg)

        assert "<script" not in svg
        assert {each.tag.rpartition("}")[2] for each in root.iter()} <= {
            *("svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "image"),
        }
        assert sum(each.text == HOSTILE for each in root.iter()) == 5


def test_a_drawing_has_the_colours_of_the_page_and_its_own_outside_of_one():
    """Black lines on a dark page cannot be seen, and a picture elsewhere has no stylesheet."""
    svg = vector(drawn).wide

    assert "var(--blue, #0072b2)" in svg
    assert "var(--text, #000000)" in svg
    assert not re.search(r"(fill|stroke): #", svg)


def test_two_drawings_in_one_page_share_no_place():
    """A browser takes the first of two places of one name: the other figure's clip."""
    first, second = vector(drawn), vector(lambda: drawn("other"))
    every = [first.wide, first.narrow, second.wide, second.narrow]

    names = [set(re.findall(r' id="([^"]+)"', svg)) for svg in every]
    used = [set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) for svg in every]

    assert all(a.isdisjoint(b) for a, b in itertools.combinations(names, 2))
    assert all(places and places <= own for places, own in zip(used, names, strict=True))


def test_a_drawing_is_the_same_each_time():
    """So is a report, which is written anew after the same stages."""
    assert vector(drawn) == vector(drawn)


def test_panels_beside_one_another_are_below_one_another_on_a_phone():
    """And half as wide ones would have no room for their numbers."""
    seen = []

    def draw():
        figure = drawn()
        seen.append((is_narrow(), figure.get_size_inches().tolist(), figure.axes[0].get_gridspec()))
        return figure

    vector(draw)

    assert [(narrow, size, grid.ncols) for narrow, size, grid in seen] == [
        (False, [7.2, 2.0], 2),
        (True, [3.7, 4.0], 1),
    ]


def test_powers_of_ten_are_written_with_small_digits():
    """Matplotlib writes them as formulas, and no formula is read any more."""
    figure, (axes,) = new_figure(3.0)
    axes.plot([1, 2], [1e-3, 1e4])
    axes.set_yscale("log")

    png(figure)

    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert not any("$" in label or "mathdefault" in label for label in labels)
    assert {"10\u207b\u00b2", "10\u00b2"} <= set(labels)
    assert _power(2e-3, "2e-3") == "0.002"
    assert not _power(3.0, "")


@pytest.mark.parametrize(
    ("values", "from_zero"), [([6.58, 6.53], False), ([0.9, 0.5], True), ([2.0, 2.0], True)]
)
def test_a_curve_that_hardly_moves_fills_the_height(values, from_zero):
    """From 0 on it was one line at the upper edge, with half of its markers cut off."""
    figure, (axes,) = new_figure(3.0)
    axes.plot(values)
    scale(axes, values)
    low, high = axes.get_ylim()

    assert bool(low == 0) is from_zero
    assert low < min(values)
    assert high > max(values)
    assert from_zero or (max(values) - min(values)) / (high - low) > 0.5
    assert png(figure)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["0.weight", "2.bias"], ["0.weight", "2.bias"]),
        (["x" * 30 + ".a.weight.end", "x" * 30 + ".b.weight.end"], ["a", "b"]),
        (["x" * 50 + ".a", "x" * 50 + ".a.b"], ["a", "a.b"]),
        (["x" * 50] * 2, ["x" * 50] * 2),
        ([], []),
    ],
)
def test_long_names_lose_what_is_common_to_all(names, short):
    """Short ones stay what they are."""
    assert short_names(names) == short


def test_a_long_name_keeps_both_of_its_ends():
    """What tells files apart stands at their end, or at their beginning."""
    assert cut_name("a" * 30 + "b" * 30) == "a" * 19 + "\N{HORIZONTAL ELLIPSIS}" + "b" * 20
    assert cut_name("gradient-similarity") == "gradient-similarity"


@pytest.mark.parametrize("width", [WIDTH, NARROW])
@pytest.mark.parametrize(
    "low", [1.1e-5, *(pytest.param(each, marks=pytest.mark.slow) for each in (0.002, 0.31, 40.0))]
)
@pytest.mark.parametrize("spread", [1.001, 1.5, 3.0, 9.0, 40.0, 300.0, 2e3, 3e4, 1e7, 1e12])
def test_numbers_of_a_logarithmic_axis_do_not_touch(width, low, spread):
    """However much of it there is, in two panels of a page or of a phone; and there are some."""
    with drawn_at(width):
        figure, (axes, _) = new_figure(5.4, rows=2)
    axes.plot([low, low * spread])
    log_scale(axes, low, low * spread)
    png(figure)

    bottom, top = axes.get_ylim()
    shown = [
        label.get_window_extent()
        for label, tick in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        if bottom <= tick <= top and label.get_text()
    ]
    assert len(shown) >= 2
    ends = sorted((box.y0, box.y1) for box in shown)
    assert all(above[0] > below[1] for below, above in itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("steps", "expected"), [([0], [0]), ([3], [3]), ([0, 1], [0, 1]), ([0, 1, 2], [0, 1, 2])]
)
def test_ticks_are_the_steps_that_there_are(steps, expected):
    """After its first outer step a report had an axis from step -1 to step 1."""
    _, (axes,) = new_figure(3.4)
    axes.plot(steps, [1.0 for _ in steps])

    whole_numbers(axes)

    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == expected
