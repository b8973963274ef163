"""Section of a training: its loss, and the adjoint on the way back through it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from engine.applications.descent.material import Curves, Material, set_ups
from engine.applications.descent.record import RunRecord
from engine.recipes.metaparameters import at_steps
from engine.reports.canvas import legend, new_figure, scale, whole_numbers
from engine.reports.sections import Figure, Section
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.figure


def section(run: Material) -> Section:
    """Return the training loss at the first and the chosen set-up, above the adjoint."""
    recipe = run.record.recipe
    caption = (
        "Loss of each training step on its own batch; for many steps, the thick line is the mean "
        "over neighbouring steps. A run on other examples or weights has another training loss, so "
        "lower is not better by itself."
    )
    if any(norm > 0 for norm in run.curves.adjoint_norms.values()):
        caption += (
            " Below: size of the adjoint, the derivative of the objective by the state, as the "
            "first reverse sweep found it; growth by many powers of ten towards step 0 means that "
            "the training is not smooth."
        )
    if recipe.metaparameters.about.is_injected:
        steps = recipe.injection_steps
        ends = "there" if len(steps) == 1 else "at the first"
        caption += f" Counts enter at {at_steps(steps)}, and the sweep ends {ends}."
    alt = f"Training loss and adjoint norm at each of {recipe.training.num_steps} training steps"
    figure = Figure(vector(lambda: draw(run.record, run.curves)), alt, caption)
    return Section("Training", figures=[figure])


def draw(record: RunRecord, curves: Curves) -> "matplotlib.figure.Figure":
    """Draw the training loss before and after, above the norm of the adjoint."""
    norms = {step: norm for step, norm in sorted(curves.adjoint_norms.items()) if norm > 0}
    figure, panels = new_figure(4.8 if norms else 2.6, rows=2 if norms else 1)
    above, everything = panels[0], []
    for (label, colour), losses in zip(
        set_ups(record), (curves.losses_before, curves.losses_after), strict=False
    ):
        smooth = _running_mean(losses)
        everything += smooth
        if len(smooth) < len(losses):
            above.plot(losses, color=colour, linewidth=0.7, alpha=0.35)
        start = (len(losses) - len(smooth)) // 2
        above.plot(range(start, start + len(smooth)), smooth, color=colour, label=label)
    scale(above, everything)
    above.set(ylabel="training loss (nats)")
    legend(above)

    for axes in panels:
        whole_numbers(axes)
    num_steps = record.recipe.training.num_steps
    above.set_xlim(0, num_steps)
    panels[-1].set(xlabel="training step")
    if norms:  # a sweep that ends at the last step carries no adjoint through any
        below, first, marker = panels[1], min(norms), "o" if len(norms) == 1 else ""
        below.plot(list(norms), list(norms.values()), color="black", marker=marker)
        scale(below, list(norms.values()), log=True)
        # A sweep over the last few steps would leave most of a panel empty.
        below.set_xlim(first if first > num_steps / 2 else 0, num_steps)
        below.set(ylabel="adjoint norm")
    return figure


def _running_mean(losses: Sequence[float]) -> list[float]:
    """Average over neighbours, a fortieth of the run; a run of few steps stays as it is."""
    width = max(len(losses) // 40, 1)
    sums = torch.tensor([0.0, *losses], dtype=torch.float64).cumsum(0)
    return ((sums[width:] - sums[:-width]) / width).tolist()
