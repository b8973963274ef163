"""Section of an audit: the images that carry the damage, and the classes that suffer it."""

from typing import TYPE_CHECKING

from engine.applications.comparisons.results import Damage
from engine.applications.descent.material import Curves, Material
from engine.reports.canvas import BLUE, GREY, ORANGE, WIDTH, png
from engine.reports.pictures import draw_changes
from engine.reports.sections import Figure, Section

if TYPE_CHECKING:
    import matplotlib.figure

SHOWN = 8
"""Images in the grid."""


def section(run: Material) -> Section | None:
    """Return whose images do the damage; none for anything but changed inputs."""
    damage = run.record.damage
    if damage is None or run.changed is None or not damage.victims:
        return None
    figure = Figure(
        png(draw_classes(damage)),
        "Rise of the objective by class of the changed images, and test accuracy of each class "
        "before and after",
        "Left: which changed images raise the objective, by label, measured by the metagradient "
        "along the path of their pixels. Right: on which test examples it shows.",
    )
    return Section("Damage by class", figures=[figure])


def draw_grid(damage: Damage, curves: Curves, ids: list[int]) -> "matplotlib.figure.Figure":
    """Draw the images that carry most of the damage: before, after and the change.

    Args:
        damage: Says which.
        curves: Their pixels, in the order of ``ids``.
        ids: Of the changed images.
    """
    shown = damage.images[:SHOWN]
    rows = [ids.index(image.id) for image in shown]
    shares = [image.damage / damage.rise if damage.rise else 0.0 for image in shown]
    titles = [
        f"class {image.label}\n{100 * share:.0f} %"
        for image, share in zip(shown, shares, strict=True)
    ]
    return draw_changes(
        curves.initial_value[rows], curves.value[rows], titles=titles, columns=SHOWN
    )


def draw_classes(damage: Damage) -> "matplotlib.figure.Figure":
    """Draw whose images do the damage, and whose test examples suffer it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
    names = list(damage.victims)
    left.bar(names, [damage.classes.get(name, 0.0) for name in names], color=ORANGE)
    left.set(xlabel="class of the changed images", ylabel="rise of the objective (nats)")
    places = range(len(names))
    for offset, colour, label, which in ((-0.2, GREY, "before", 0), (0.2, BLUE, "after", 1)):
        heights = [100 * damage.victims[name][which] for name in names]
        right.bar([p + offset for p in places], heights, 0.4, color=colour, label=label)
    right.set_xticks(list(places), names)
    right.set(xlabel="class of the test examples", ylabel="test accuracy (%)")
    right.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure
