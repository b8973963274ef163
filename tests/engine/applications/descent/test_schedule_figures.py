"""What the figure of a descent's schedule beside searched ones shows."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from engine.applications.descent.figures.schedules import draw_schedules, section
from engine.recipes.rate_search import Searched
from tests.helpers.runs.made_records import make_curves, make_material, make_record

GRID = [0.2, 0.3, *(0.4 + 0.01 * place for place in range(38))]


def searched(losses, rate):
    best = {"objective": 9.0, "validation": losses[0], "test": 8.0}
    return Searched(
        trainings=40, failed=0, best=best, losses=losses, rates=[rate + t for t in range(STEPS)]
    )


STEPS = make_record(kind="learning-rate").recipe.training.num_steps


def drawn(**found):
    """Return the two axes of the figure, and the record that it is of."""
    # The second iterate of three has the lowest validation loss.
    losses = [(3.0, 0.9, 0.8), (2.0, 0.5, 0.4), (1.0, 0.7, 0.6)]
    record = make_record(losses, kind="learning-rate").model_copy(update=found)
    points = torch.log(torch.tensor([0.1, 0.4, 0.2]))
    curves = make_curves("learning-rate", value=points)
    return draw_schedules(record, curves).axes, record, make_material(record, curves)


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_losses_and_schedules_of_all_three_are_drawn():
    """The descent by its chosen iterate, the searches by their best, each in one colour."""
    (above, below), record, _ = drawn(grid=searched(GRID, 1.0), optuna=searched([0.35], 2.0))

    levels, schedules = lines_of(above), lines_of(below)
    assert record.chosen == 1
    assert set(levels) == {"grid, sorted", "descent (outer step 1)", "Optuna"}
    assert set(schedules) == {"descent (outer step 1)", "Optuna", "best of the grid"}
    assert list(levels["grid, sorted"].get_xdata()) == list(range(1, 41))
    assert list(levels["grid, sorted"].get_ydata()) == GRID
    assert set(levels["descent (outer step 1)"].get_ydata()) == {0.5}
    assert set(levels["Optuna"].get_ydata()) == {0.35}
    assert list(schedules["best of the grid"].get_ydata()) == [1.0 + t for t in range(STEPS)]
    assert list(schedules["Optuna"].get_ydata()) == [2.0 + t for t in range(STEPS)]
    own = np.interp(np.linspace(0, 2, STEPS), [0, 1, 2], [0.1, 0.4, 0.2])
    assert schedules["descent (outer step 1)"].get_ydata() == pytest.approx(own, rel=1e-5)
    for name in ("descent (outer step 1)", "Optuna"):
        assert to_hex(levels[name].get_color()) == to_hex(schedules[name].get_color())
    (band,) = above.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == (0.5, 2)  # of forty, the best 5 %
    for axes, values in ((above, [0.2, 0.77]), (below, [0.1, 2.0 + STEPS - 1])):
        low, high = axes.get_ylim()
        assert low <= min(values) < max(values) <= high


def test_search_without_a_grid_is_drawn():
    """Its schedule and its loss, and no band of a grid's best."""
    (above, below), *_ = drawn(optuna=searched([0.35], 2.0))

    assert set(lines_of(above)) == {"descent (outer step 1)", "Optuna"}
    assert not above.patches
    assert set(lines_of(below)) == {"descent (outer step 1)", "Optuna"}


@pytest.mark.slow
def test_section_says_what_is_in_its_figure():
    """And there is none where nothing was searched."""
    *_, both = drawn(grid=searched(GRID, 1.0), optuna=searched([0.35], 2.0))
    *_, grid = drawn(grid=searched(GRID, 1.0))
    *_, optuna = drawn(optuna=searched([0.35], 2.0))
    *_, nothing = drawn()

    assert section(nothing) is None
    words = [section(each).figures[0].alt for each in (both, grid, optuna)]
    assert ["of a grid" in each for each in words] == [True, True, False]
    assert ["of Optuna" in each for each in words] == [True, False, True]
