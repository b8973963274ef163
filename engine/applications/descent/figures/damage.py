"""Section of changed inputs: the examples and classes that account for the damage or gain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.applications.comparisons.results import ChangedImage, Damage
from engine.applications.descent.material import Material
from engine.applications.shown_examples import candidate, together
from engine.problems.splits import DataSet
from engine.reports.canvas import BLUE, GREY, ORANGE, legend, new_figure
from engine.reports.pictures import changes
from engine.reports.sections import Card, Figure, Section, Table
from engine.reports.units import write_percent
from engine.reports.vector import vector

if TYPE_CHECKING:
    import matplotlib.figure

SHOWN = 8
"""Examples that are shown."""

SIDE_BY_SIDE = 4
"""Rows of a table that are shown, a column for each: more are wider than a page."""

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
    notes = [write_percent(each.damage / damage.rise) if damage.rise else "" for each in shown]
    called = "images" if looks_as(run) == "picture" else "examples"
    words = (
        f"The {len(shown)} of {len(places)} changed {called} that carry most of the "
        f"{effect(damage)}: {HOW[looks_as(run)]}. A percentage is the share of the "
        f"{direction(damage)} of the objective"
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
        return Table(whole)
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
        "examples it shows.",
    )


def draw_classes(damage: Damage) -> "matplotlib.figure.Figure":
    """Draw whose inputs move the objective, and on whose test examples it shows."""
    figure, (left, right) = new_figure(3.0, columns=2)
    names = list(damage.victims)
    way = -1.0 if damage.rise < 0 else 1.0
    left.bar(names, [way * damage.classes.get(name, 0.0) for name in names], color=ORANGE)
    left.set(
        xlabel="class of the changed inputs", ylabel=f"{direction(damage)} of the objective (nats)"
    )
    places = range(len(names))
    for offset, colour, label, which in ((-0.2, GREY, "before", 0), (0.2, BLUE, "after", 1)):
        heights = [100 * damage.victims[name][which] for name in names]
        right.bar([p + offset for p in places], heights, 0.4, color=colour, label=label)
    right.set_xticks(list(places), names)
    right.set(xlabel="class of the test examples", ylabel="test accuracy (%)")
    legend(right)
    return figure
