"""Section of a learning-rate descent beside a grid of schedules and Optuna."""

import math
from typing import TYPE_CHECKING

import torch

from engine.applications.descent.material import Curves, Material
from engine.applications.descent.record import RunRecord
from engine.metaparameters.learning_rate import LearningRatePoints
from engine.reports.canvas import BAND, BLUE, GREEN, GREY, ORANGE, legend, log_scale, new_figure
from engine.reports.sections import Figure, Section
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.figure


def section(run: Material) -> Section | None:
    """Return the schedules that were searched without a metagradient; none if none were."""
    if run.record.grid is None and run.record.optuna is None:
        return None
    has_grid, has_optuna = run.record.grid is not None, run.record.optuna is not None
    others = " and of Optuna" if has_optuna else ""
    grid = "of a grid of schedules, with those " if has_grid else ""
    above = "validation losses of the grid, and what" if has_grid else "the validation losses that"
    reach = "the descent and Optuna reach" if has_optuna else "the descent reaches"
    figure = Figure(
        vector(lambda: draw_schedules(run.record, run.curves)),
        f"Validation losses {grid}of the descent{others}, and the best schedules as curves",
        f"Above: {above} {reach}. Below: the schedules with the lowest validation loss.",
    )
    return Section("Other schedules", figures=[figure])


def draw_schedules(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    """Draw the sorted losses of the grid and the schedules found."""
    figure, (above, below) = new_figure(5.4, rows=2)
    own = record.iterates[record.chosen].scores["validation"]["loss"]
    steps = record.recipe.training.num_steps
    points = curves.value.to(torch.float64)
    kind = LearningRatePoints(points, num_steps=steps)
    rates = [float(kind.hyperparameters(points, t)["learning_rate"]) for t in range(steps)]
    shown = [(f"descent (outer step {record.chosen})", BLUE, own, rates)]
    if record.optuna is not None:
        shown.append(("Optuna", ORANGE, record.optuna.best["validation"], record.optuna.rates))
    if record.grid is not None:
        losses = record.grid.losses
        above.plot(range(1, len(losses) + 1), losses, color=GREY, label="grid, sorted")
        top = max(round(0.05 * record.grid.trainings), 1)
        above.axvspan(0.5, top, color=BAND, zorder=0, label="best 5 %")
        shown.append(("best of the grid", GREEN, losses[0], record.grid.rates))
    for label, colour, loss, line in shown:
        if label != "best of the grid":
            above.axhline(loss, color=colour, linewidth=1.2, label=label)
        below.plot(range(steps), line, color=colour, label=label)
    above.set(xlabel="place in the grid", ylabel="validation loss (nats)")
    below.set(xlabel="training step", ylabel="learning rate")
    reached = [loss for _, _, loss, _ in shown]
    if record.grid is not None:
        reached += record.grid.losses
    used = [rate for *_, rates in shown for rate in rates]
    for axes, values in ((above, reached), (below, used)):
        known = [value for value in values if 0 < value < math.inf]
        log_scale(axes, min(known, default=1.0), max(known, default=1.0))
        legend(axes)
    return figure
