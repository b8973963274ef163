"""What the figures of an attribution show, read back from their axes."""

import pytest

from engine.applications.attribution.figures import draw_datamodeling, draw_prediction
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


def test_each_percentage_has_a_panel_of_predicted_and_measured_changes():
    """Points off the diagonal are wrong predictions, so the axes must not be exchanged."""
    figure = draw_prediction({1.0: ([0.0, 1.0], [0.5, 3.0]), 5.0: ([2.0], [-1.0]), 9.0: ([1], [1])})

    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"{n} % left out" for n in (1, 5, 9)]
    diagonal, points = shown[0].lines
    assert points.get_xydata().tolist() == [[0.0, 0.5], [1.0, 3.0]]
    assert diagonal.get_xydata().tolist() == [[0.0, 0.0], [3.0, 3.0]]
    assert shown[1].lines[0].get_xydata().tolist() == [[-1.0, -1.0], [2.0, 2.0]]
    assert shown[0].get_xlabel() == "predicted change"
    assert shown[0].get_ylabel() == "change of the loss"
    assert len(figure.axes) == 4  # the last place of the grid is empty
