"""Section of an audit: the images that carry the damage, and the classes that suffer it."""

from typing import TYPE_CHECKING

from engine.applications.comparisons.results import Damage
from engine.applications.descent.material import Curves, Material
from engine.reports.canvas import BLUE, GREY, ORANGE, legend, new_figure
from engine.reports.pictures import changes
from engine.reports.sections import Card, Figure, Section
from engine.reports.units import write_percent
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.figure

SHOWN = 8
"""Images that are shown."""


def section(run: Material) -> Section | None:
    """Return whose images do the damage; none for anything but changed inputs."""
    damage = run.record.damage
    if damage is None or run.changed is None or not damage.victims:
        return None
    about = run.record.recipe.metaparameters.about
    words = (
        f"The {min(SHOWN, len(damage.images))} of {len(run.changed)} changed images that carry "
        "most of the damage: before, after, and the change, amplified until the largest can be "
        "seen (red is brighter, blue darker). A percentage is the image's share of the rise of "
        "the objective"
    )
    figure = Figure(
        vector(lambda: draw_classes(damage)),
        "Rise of the objective by class of the changed images, and test accuracy of each class "
        "before and after",
        "First: which changed images raise the objective, by label, measured by the metagradient "
        "along the path of their pixels. Second: on which test examples it shows.",
    )
    cards = _cards(damage, run.curves, list(run.changed))
    return Section(f"{about.title} and their damage", figures=[figure], examples={words: cards})


def _cards(damage: Damage, curves: Curves, ids: list[int]) -> list[Card]:
    """Return the images that carry most of the damage.

    Args:
        damage: Says which.
        curves: Their pixels, in the order of ``ids``.
        ids: Of the changed images.
    """
    shown = damage.images[:SHOWN]
    rows = [ids.index(image.id) for image in shown]
    pictures = changes(curves.initial_value[rows], curves.value[rows])
    return [
        Card(
            each,
            f"image {image.id}",
            f"class {image.label}",
            write_percent(image.damage / damage.rise) if damage.rise else "",
        )
        for image, each in zip(shown, pictures, strict=True)
    ]


def draw_classes(damage: Damage) -> "matplotlib.figure.Figure":
    """Draw whose images do the damage, and whose test examples suffer it."""
    figure, (left, right) = new_figure(3.0, columns=2)
    names = list(damage.victims)
    left.bar(names, [damage.classes.get(name, 0.0) for name in names], color=ORANGE)
    left.set(xlabel="class of the changed images", ylabel="rise of the objective (nats)")
    places = range(len(names))
    for offset, colour, label, which in ((-0.2, GREY, "before", 0), (0.2, BLUE, "after", 1)):
        heights = [100 * damage.victims[name][which] for name in names]
        right.bar([p + offset for p in places], heights, 0.4, color=colour, label=label)
    right.set_xticks(list(places), names)
    right.set(xlabel="class of the test examples", ylabel="test accuracy (%)")
    legend(right)
    return figure
