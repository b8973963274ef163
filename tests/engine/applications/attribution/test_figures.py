"""What the figures of an attribution show, read back from their axes."""

import itertools

import pytest
import torch

from engine.applications.attribution.figures import draw_datamodeling, draw_predictions, ends
from engine.reports.canvas import NARROW, WIDTH, drawn_at, png
from engine.reports.intervals import Interval


def test_the_lds_of_each_method_stands_at_the_share_that_was_left_out():
    """Mean and interval, by rising share, in whatever order they were measured."""
    figure = draw_datamodeling(
        {
            "MAGIC": {10.0: Interval(0.9, 0.8, 0.95), 1.0: Interval(0.97, 0.96, 0.98)},
            "TRAK": {1.0: Interval(0.2, 0.05, 0.4)},
        }
    )

    (axes,) = figure.axes
    drawn = {each.get_label(): each for each in axes.containers}
    assert list(drawn) == ["MAGIC", "TRAK"]
    line, _, (bars,) = drawn["MAGIC"]
    assert line.get_xydata().tolist() == [[1.0, 0.97], [10.0, 0.9]]
    ends = [y for segment in bars.get_segments() for _, y in segment]
    assert ends == pytest.approx([0.96, 0.98, 0.8, 0.95])
    assert [each.get_text() for each in axes.get_xticklabels()] == ["1 %", "10 %"]
    assert axes.get_ylim()[1] >= 1  # a perfect score is not cut off
    assert (axes.get_xlabel(), axes.get_xscale()) == ("training examples left out", "log")


@pytest.mark.parametrize("width", [WIDTH, NARROW])
def test_each_query_has_a_square_of_predicted_and_measured_changes(width):
    """Points off the diagonal are wrong predictions, so the axes must not be exchanged."""
    points = {
        5.0: (torch.tensor([[2.0, 0.0, -4.0]]), torch.tensor([[-1.0, 0.0, -4.2]])),
        1.0: (torch.tensor([[0.0, 0, 0], [1, 0, 0]]), torch.tensor([[0.5, 0, 0], [3.04, 0, 0]])),
    }
    with drawn_at(width):
        figure = draw_predictions(points, [0, 1, 2], [0.911, 0.5, -0.2])
    png(figure)

    assert [axes.get_title() for axes in figure.axes] == [
        *("query 0: 0.91", "query 1: 0.50", "query 2: -0.20"),
    ]
    few, many, diagonal = figure.axes[0].lines
    assert few.get_xydata().tolist() == [[2.0, -1.0]]
    assert many.get_xydata().tolist() == [[0.0, 0.5], [1.0, pytest.approx(3.04)]]
    assert few.get_color() != many.get_color()
    assert diagonal.get_xydata().tolist() == [[-1.0, -1.0], [3.1, 3.1]]
    labels = [axes.get_xlabel().replace(" ", "") for axes in figure.axes]
    assert labels == ["-1\u20263.1", "-1\u20261", "-4.2\u20260"]
    assert all(axes.get_xlim() == axes.get_ylim() for axes in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["1 % left out", "5 % left out"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [WIDTH, NARROW])
def test_texts_of_many_squares_do_not_touch(width):
    """A page of 20 queries, whose numbers need as much room as any."""
    drawn = torch.Generator().manual_seed(0)
    pair = tuple(1.234e-3 * torch.randn(4, 120, generator=drawn) for _ in range(2))
    with drawn_at(width):
        points = {share: pair for share in (1.0, 5.0, 10.0, 20.0, 30.0)}
        figure = draw_predictions(points, range(100, 120), [-0.88] * 120)
    png(figure)

    texts = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label)]
    boxes = [text.get_window_extent() for text in texts]
    boxes.append(figure.legends[0].get_window_extent())
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    right, top = figure.bbox.x1, figure.bbox.y1
    assert all(0 <= box.x0 < box.x1 <= right and 0 <= box.y0 < box.y1 <= top for box in boxes)


@pytest.mark.parametrize("values", [[0.00123, -0.0041], [9.99, 0.0], [-99.9], [1e-12], [1.0, 1.0]])
def test_ends_of_an_axis_hold_all_values(values):
    """Rounded inwards, a point would lie outside of its square."""
    low, high = ends(values)

    assert low <= min(values) <= max(values) <= high
    assert low <= 0 <= high
    assert len(f"{low:g}{high:g}") <= 13
