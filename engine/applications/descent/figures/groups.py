"""Section of a mixture: each group's share, beside some of its examples."""

import torch
from torch import Tensor

from engine.applications.descent.material import Material
from engine.applications.shown_examples import candidate, together
from engine.metaparameters.charts import Bars
from engine.recipes.metaparameters import GroupName
from engine.reports.sections import Section
from engine.reports.units import write_percent

GROUPS, SHOWN = 6, 6
"""Groups that are shown, those whose share changed most, and examples of each."""


def section(run: Material) -> Section | None:
    """Return the groups whose share changed most; none for anything but a mixture."""
    if run.groups is None or not isinstance(run.chart, Bars):
        return None
    before, after = run.chart.before, run.chart.after
    moved = (after - before).abs().argsort(descending=True, stable=True)[:GROUPS].tolist()
    moved.sort(key=lambda group: float(before[group] - after[group]))
    examples = {}
    for group in moved:
        places = torch.nonzero(run.groups == group).flatten()
        words = (
            f"Group {group}{_name(run, group, places)}, {len(places)} examples: share "
            f"{write_percent(float(before[group]))} \u2192 {write_percent(float(after[group]))}"
        )
        shown = places[:SHOWN].tolist()
        looks = [candidate(run.data, place) for place in shown]
        examples[words] = together(looks, [""] * len(shown))
    note = (
        f"The {len(moved)} of {len(before)} groups whose share of the training loss changed most, "
        "from the one that gained most to the one that lost most, each with its first examples."
    )
    return Section("Groups to look at", notes=[note], examples=examples)


def _name(run: Material, group: int, places: Tensor) -> str:
    """Return the name of a group, in brackets: a class, a corpus, a column's value."""
    name, data = run.record.recipe.metaparameters.groups, run.data
    if name == GroupName.CLASS:
        return f" ({data.classes[group]})" if data.classes else ""
    if name == GroupName.SOURCE and data.texts is not None:
        return f" ({data.texts.sources[group]})"
    if name != GroupName.CLUSTER and name in data.groups and len(places):
        return f" ({data.groups[name][int(places[0])]})"
    return ""
