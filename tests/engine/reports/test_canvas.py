"""Figures of names from outside: none of them is a formula, and powers of ten stay readable."""

import pytest

from engine.applications.descent.figures.sources import draw_sources
from engine.applications.descent.source_shares import SourceShare
from engine.reports.canvas import _power, new_figure, png

NAMES = ["price $5 and $\\frac{$", "a$b_{$c", "$\\mathdefault{" * 3, "\\$x$", "{}", "%s", "a\nb"]


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
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [name, "other"]


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
