"""Section of changed inputs: the examples and classes that account for the damage or gain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.applications.comparisons.results import ChangedImage, Damage
from engine.applications.descent.material import Material
from engine.applications.shown_examples import candidate, together
from engine.problems.data.splits import DataSet
from engine.reports.canvas import BLUE, GREY, ORANGE, cut_name, legend, lying, new_figure
from engine.reports.pictures import changes
from engine.reports.sections import Card, Figure, Section, Table
from engine.reports.units import write_number, write_percent
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

SHOWN = 8
"""Examples that are shown."""

SIDE_BY_SIDE = 4
"""Rows of a table that are shown, a column for each: more are wider than a page."""

_MOST_CLASSES = 24
"""Classes that are drawn, those first that carry most; more are smaller than they can be read."""

_UPRIGHT = 36
"""Letters of all names together for which there is room below bars that stand."""

HOW = {
    "picture": "before, after, and the change, amplified until the largest can be seen (red is "
    "brighter, blue darker)",
    "row": "each value before and after",
    "text": "the tokens stay, and their embeddings were moved",
}
"""What is shown of a changed example, by how it looks."""


def section(run: Material) -> Section | None:
    """Return the section of the changed inputs that did most; None unless inputs were changed."""
    damage = run.record.damage
    if damage is None or run.changed is None:
        return None
    about = run.record.recipe.metaparameters.about
    places = list(run.changed)
    shown = carriers(damage)[: SIDE_BY_SIDE if looks_as(run) == "row" else SHOWN]
    rows = [places.index(each.place) for each in shown]
    notes = [_part(damage, each) for each in shown]
    called = "images" if looks_as(run) == "picture" else "examples"
    words = (
        f"The {len(shown)} of {len(places)} changed {called} that carry most of the "
        f"{effect(damage)}: {HOW[looks_as(run)]}. {_meaning(damage)}"
    )
    figures = [] if not damage.victims else [_of_classes(damage)]
    return Section(
        f"{about.title} and their {effect(damage)}",
        figures=figures,
        examples={words: changed_examples(run, rows, notes, "share")},
    )


def direction(damage: Damage) -> str:
    """Return a noun for how the objective moved: a run that learns its inputs lowers it."""
    return "fall" if damage.rise < 0 else "rise"


def _part(damage: Damage, image: ChangedImage) -> str:
    """Write what a changed example has done to the objective."""
    if damage.adds_up:
        return write_percent(image.damage / damage.rise)
    return f"{image.damage:+.2g} nats"


def _meaning(damage: Damage) -> str:
    """Say what the figure beside a changed example is, and how far it can be believed."""
    if damage.adds_up:
        return f"A percentage is the share of the {direction(damage)} of the objective"
    return (
        "A figure is what it adds to the objective by the metagradient. All together add "
        f"{write_number(damage.parts)} nats, but the objective moved by "
        f"{write_number(damage.rise)}: the training answers steps of this length too unevenly "
        "for the parts to say more than an order"
    )


def effect(damage: Damage) -> str:
    """Return a noun for the effect of the changed inputs."""
    return "gain" if damage.rise < 0 else "damage"


def carriers(damage: Damage) -> Sequence[ChangedImage]:
    """Return the changed examples, those with the largest share of the objective's change first."""
    return damage.images[::-1] if damage.rise < 0 else damage.images


def looks_as(run: Material) -> str:
    """Say how a changed example looks: as a picture, as a row of a table, or as a text."""
    if run.data.texts is not None:
        return "text"
    is_row = run.curves.value.ndim == 2 and run.data.show_inputs is not None
    return "row" if is_row else "picture"


def changed_examples(
    run: Material, rows: Sequence[int], notes: Sequence[str], what: str
) -> Sequence[Card] | Table:
    """Return changed examples by their names, as they were and as they are.

    Args:
        run: Run whose inputs were changed.
        rows: Rows of z, one for each example.
        notes: A figure of each.
        what: What the figures are, in a table.
    """
    assert run.changed is not None  # of changed inputs
    data, places = run.data, [run.changed[row] for row in rows]
    before, after = run.curves.initial_value[list(rows)], run.curves.value[list(rows)]
    form = looks_as(run)
    if form == "text":
        return together([candidate(data, place) for place in places], notes, what=what)
    names = [_name(data, place) for place in places]
    if form == "row":
        assert data.show_inputs is not None  # as it looks
        names = [
            f"{name} (#{place})" if names.count(name) > 1 or name == "column" else name
            for name, place in zip(names, places, strict=True)
        ]
        told = [
            (data.show_inputs(old), data.show_inputs(new))
            for old, new in zip(before, after, strict=True)
        ]
        whole = [{"column": what, **dict(zip(names, notes, strict=True))}] + [
            {"column": key}
            | {
                name: _moved(str(old[key]), str(new[key]))
                for name, (old, new) in zip(names, told, strict=True)
            }
            for key in told[0][0]
        ]
        return Table(whole, named=frozenset(names))
    classes = [_class(data, place) for place in places]
    pictures = changes(before, after)
    return [
        Card(each, name, text, note)
        for each, name, text, note in zip(pictures, names, classes, notes, strict=True)
    ]


def _moved(before: str, after: str) -> str:
    return before if before == after else f"{before} \u2192 {after}"


def _name(data: DataSet, place: int) -> str:
    if data.names:
        return data.names[place]
    return f"image {place if data.ids is None else int(data.ids[place])}"


def _class(data: DataSet, place: int) -> str:
    """Return the class of a training candidate in words; nothing where labels are no classes."""
    labels = data.class_of_each
    return "" if labels is None else f"class {data.class_name(int(labels[place]))}"


def _of_classes(damage: Damage) -> Figure:
    return Figure(
        vector(lambda: draw_classes(damage)),
        f"{direction(damage).capitalize()} of the objective by class of the changed inputs, and "
        "test accuracy of each class before and after",
        f"First: which changed inputs {'lower' if damage.rise < 0 else 'raise'} the objective, by "
        "label, measured by the metagradient along the path of their values. Second: on which test "
        f"examples it shows.{_left_out(damage)}",
    )


def draw_classes(damage: Damage) -> "matplotlib.figure.Figure":
    """Draw whose inputs move the objective, and on whose test examples it shows."""
    names = _classes(damage)
    lies = sum(len(name) + 1 for name in names) > _UPRIGHT
    figure, (left, right) = new_figure(1.2 + 0.3 * len(names) if lies else 3.0, columns=2)
    way = -1.0 if damage.rise < 0 else 1.0
    parts = [way * damage.classes.get(name, 0.0) for name in names]
    places = [float(place) for place in range(len(names))]
    _bars(left, places, parts, 0.8, lies=lies, color=ORANGE)
    for offset, colour, label, which in ((-0.2, GREY, "before", 0), (0.2, BLUE, "after", 1)):
        heights = [100 * damage.victims[name][which] for name in names]
        moved = [place + offset for place in places]
        _bars(right, moved, heights, 0.4, lies=lies, color=colour, label=label)
    whose = ("class of the changed inputs", "class of the test examples")
    what = (f"{direction(damage)} of the objective (nats)", "test accuracy (%)")
    for axes, classes, measured in zip((left, right), whose, what, strict=True):
        if lies:
            lying(axes)
            axes.set_yticks(places, [cut_name(name) for name in names])
            axes.invert_yaxis()
            axes.set(xlabel=measured, ylabel=classes)
        else:
            axes.set_xticks(places, names)
            axes.set(xlabel=classes, ylabel=measured)
    legend(right)
    return figure


def _bars(
    axes: "matplotlib.axes.Axes",
    places: Sequence[float],
    values: Sequence[float],
    width: float,
    *,
    lies: bool,
    **style: Any,  # noqa: ANN401 (matplotlib's)
) -> None:
    """Draw bars that stand, or that lie where there is no room for names below them."""
    (axes.barh if lies else axes.bar)(places, values, width, **style)


def _classes(damage: Damage) -> list[str]:
    """Return the classes that are drawn, in their order."""
    names = list(damage.victims)
    by_part = sorted(names, key=lambda name: -abs(damage.classes.get(name, 0.0)))
    most = set(by_part[:_MOST_CLASSES])
    return [name for name in names if name in most]


def _left_out(damage: Damage) -> str:
    others = len(damage.victims) - len(_classes(damage))
    return f" {others} more classes carry less." if others else ""
