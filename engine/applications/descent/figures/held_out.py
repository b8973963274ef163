"""Section of test examples: those that a descent helped most, and those that it hurt most.

It is there where nothing else on the page shows an example, as for a learning rate.
"""

from collections.abc import Sequence

import torch

from engine.applications.descent.material import Material
from engine.applications.shown_examples import held_out, together
from engine.reports.sections import Card, Section, Table

SHOWN = 6
"""Examples of each kind."""


def section(run: Material) -> Section | None:
    """Return test examples by how their loss changed; none where candidates are shown."""
    about = run.record.recipe.metaparameters.about
    others = about.selects_examples or about.changes_inputs or about.weighs_groups
    if others or run.test_losses is None:
        return None
    before, after = run.test_losses
    change = after - before
    if not change.any():
        worst = torch.argsort(after, descending=True, stable=True).tolist()[:SHOWN]
        words = "Hardest for the first set-up, which was kept"
        return Section("Test examples", notes=[_NOTE], examples={words: _together(run, worst)})
    order = torch.argsort(change, stable=True).tolist()
    groups = {
        "Helped most": [place for place in order[:SHOWN] if change[place] < 0],
        "Hurt most": [place for place in order[: -SHOWN - 1 : -1] if change[place] > 0],
    }
    shown = {words: _together(run, places) for words, places in groups.items() if places}
    return Section("Test examples", notes=[_NOTE], examples=shown)


_NOTE = (
    "Numbers are the loss of the example with the first set-up and with the chosen one. Nothing "
    "was chosen by these examples."
)


def _together(run: Material, places: Sequence[int]) -> Sequence[Card] | Table:
    assert run.test_losses is not None  # asked by the caller
    before, after = run.test_losses
    looks = [held_out(run.data, "test", place, f"test example {place}") for place in places]
    losses = [f"{float(before[place]):.3f} \u2192 {float(after[place]):.3f}" for place in places]
    return together(looks, losses, what="loss")
