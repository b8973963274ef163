"""What a stranger's report shows of examples: changed rows and texts, and who was tested."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from engine.applications.comparisons.results import Baseline, ChangedImage, Damage
from engine.applications.descent.figures import comparison, damage, held_out, losses
from engine.applications.descent.material import Curves, Material
from engine.applications.descent.record import RunRecord
from engine.problems.data.splits import DataSet, Examples
from engine.problems.passage import Passage, Texts
from engine.recipes.files import load_recipe
from tests.faults.own_data import EXAMPLES, shown
from tests.helpers.data import own_data
from tests.helpers.runs.finished import finish
from tests.helpers.runs.made_records import make_material as material_of
from tests.helpers.runs.made_records import make_record

POISON = load_recipe("digits-poison")
SCHEDULE = load_recipe("digits-schedule")
VICTIMS = {"3": (0.8, 0.9), "7": (0.9, 0.9)}


def material(data, recipe, before, after, images=(), rise=2.0, **more):
    record = RunRecord.model_construct(
        recipe=recipe,
        damage=Damage(images=list(images), rise=rise, classes={}, victims={}),
    )
    curves = Curves(before, after, data.corrupted, [], [], {})
    return Material(record, curves, data, torch.zeros(1), **more)


def data_of(inputs, **more):
    number = len(inputs)
    splits = {name: Examples(inputs, torch.arange(number)) for name in ("train", "test")}
    none = torch.zeros(number, dtype=torch.bool)
    return DataSet(splits, 0, none, "", ids=torch.arange(number) + 10, **more)


def test_changed_rows_stand_side_by_side_with_each_value_before_and_after():
    """A column for each example, by its name; what did not move is written once."""
    rows = torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    data = data_of(
        rows,
        names=("Ann", "Bob", "Cid"),
        show_inputs=lambda row: {"age": f"{row[0]:g}", "size": f"{row[1]:g}"},
    )
    images = [
        ChangedImage(id=12, place=2, name="Cid", label=None, damage=1.5),
        ChangedImage(id=10, place=0, name="Ann", label=None, damage=0.5),
    ]
    after = torch.tensor([[1.0, 5.5], [3.0, 9.0]])
    run = material(data, POISON, rows[[0, 2]], after, images, changed=[0, 2])

    (table,) = damage.section(run).examples.values()

    assert table.rows == [
        {"column": "share", "Cid": "75 %", "Ann": "25 %"},
        {"column": "age", "Cid": "3", "Ann": "1"},
        {"column": "size", "Cid": "7 \u2192 9", "Ann": "5 \u2192 5.5"},
    ]


def test_changed_rows_of_one_name_and_one_id_are_told_apart():
    """Names of people, and positions in several files, may be there twice."""
    rows = torch.tensor([[1.0], [2.0], [3.0]])
    data = data_of(
        rows, names=("Ann", "Ann", "column"), show_inputs=lambda row: {"age": f"{row[0]:g}"}
    )
    data = replace(data, ids=torch.tensor([0, 0, 0]))
    images = [ChangedImage(id=0, place=place, label=None, damage=1.0) for place in (2, 1, 0)]
    run = material(data, POISON, rows, rows + 10, images, changed=[0, 1, 2])

    (table,) = damage.section(run).examples.values()

    assert table.rows[1] == {
        "column": "age",
        "column (#2)": "3 \u2192 13",
        "Ann (#1)": "2 \u2192 12",
        "Ann (#0)": "1 \u2192 11",
    }


def test_changed_texts_are_shown_as_texts():
    """A shift of an embedding is no picture."""
    passages = [Passage("ask", f"answer {n}", "one", "one.txt", n + 1) for n in range(3)]
    data = data_of(torch.zeros(3, 4), texts=Texts.of({"train": passages}))
    image = ChangedImage(id=11, place=1, label=None, damage=2.0)
    run = material(data, POISON, torch.zeros(1, 4, 2), torch.ones(1, 4, 2), [image], changed=[1])

    ((words, (card,)),) = damage.section(run).examples.items()

    assert "embeddings were moved" in words
    assert (card.text, card.note, card.images) == ("ask \u2192 answer 1", "100 %", {})


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "kept"])
def test_schedule_shows_the_test_examples_that_it_helped_and_hurt(moved):
    """By the names that they have; where the start was kept, the hardest ones."""
    data = data_of(
        torch.zeros(3, 2),
        held_out_names={"test": ("Ann", "Bob", "Cid")},
        show_held_out=lambda split, place: {"split": split, "row": place},
    )
    before = torch.tensor([1.0, 2.0, 3.0])
    after = torch.tensor([0.5, 2.0, 4.0]) if moved else before
    run = material(data, SCHEDULE, torch.zeros(1), torch.zeros(1), test_losses=(before, after))

    found = held_out.section(run).examples

    names = {words: [row["example"] for row in table.rows] for words, table in found.items()}
    if moved:
        assert names == {"Helped most": ["Ann"], "Hurt most": ["Cid"]}
        (row,) = found["Hurt most"].rows
        assert row == {"example": "Cid", "loss": "3.000 \u2192 4.000", "split": "test", "row": "2"}
    else:
        assert list(names.values()) == [["Cid", "Bob", "Ann"]]


@pytest.mark.slow
@pytest.mark.parametrize("question", ["schedule", "poison"])
def test_report_on_a_table_of_ones_own_names_its_rows(question, tmp_path):
    """The other questions, the other data, kills and workers: ``tests.faults.own_data``."""
    if reason := own_data.why_not("table"):
        pytest.skip(reason)
    path = own_data.table(tmp_path)
    recipe = load_recipe(str(own_data.write_recipe(tmp_path, "table", question, path)))

    record = finish(recipe, str(tmp_path / "store"))

    report = tmp_path / "store" / "runs" / record.run / "report.html"
    assert shown(report, "table", path)[0] >= EXAMPLES


def test_learned_inputs_that_lower_the_objective_are_a_gain_the_largest_first():
    """Of fifty learned images the eight that did least were shown, as carrying the damage."""
    rows = torch.tensor([[1.0], [2.0], [3.0]])
    data = data_of(rows, names=("Ann", "Bob", "Cid"), show_inputs=lambda row: {"age": f"{row[0]}"})
    images = [  # as a record has them: those first that raise the objective most
        ChangedImage(id=10 + place, place=place, label=None, damage=part)
        for place, part in ((0, 0.5), (1, -1.0), (2, -1.5))
    ]
    run = material(data, POISON, rows, rows + 1, images, rise=-2.0, changed=[0, 1, 2])

    section = damage.section(run)
    ((words, table),) = section.examples.items()

    assert section.title == "Changed inputs and their gain"
    assert "carry most of the gain" in words
    assert "share of the fall of the objective" in words
    assert list(table.rows[0].items()) == [
        ("column", "share"),
        ("Cid", "75 %"),
        ("Bob", "50 %"),
        ("Ann", "-25 %"),
    ]


def test_bars_of_a_fall_stand_upright():
    """A bar that hangs from the top reads as a loss."""
    fell = Damage(images=[], rise=-2.0, classes={"3": -1.5, "7": -0.5}, victims=VICTIMS)

    left = damage.draw_classes(fell).axes[0]

    assert [bar.get_height() for bar in left.patches] == [1.5, 0.5]
    assert left.get_ylabel() == "fall of the objective (nats)"


def test_parts_that_do_not_add_up_are_no_shares():
    """After a chaotic training a picture carried -31028 % of the fall."""
    rows = torch.tensor([[1.0], [2.0]])
    data = data_of(rows, names=("Ann", "Bob"), show_inputs=lambda row: {"age": f"{row[0]}"})
    images = [
        ChangedImage(id=place, place=place, label=None, damage=part)
        for place, part in ((0, 54.0), (1, 25.0))
    ]
    run = material(data, POISON, rows, rows + 1, images, rise=-0.08, changed=[0, 1])

    ((words, table),) = damage.section(run).examples.items()

    assert "All together add 79.0000 nats, but the objective moved by -0.0800" in words
    assert list(table.rows[0].items()) == [
        ("column", "share"),
        ("Bob", "+25 nats"),
        ("Ann", "+54 nats"),
    ]


@pytest.mark.parametrize(("number", "drawn"), [(17, 17), (40, 24)])
def test_names_of_many_classes_do_not_cover_each_other(number, drawn):
    """Seventeen folders of photographs were one black line below the bars."""
    names = [f"animals and plants {place}" for place in range(number)]
    parts = {name: float(place) for place, name in enumerate(names)}
    many = Damage(images=[], rise=2.0, classes=parts, victims=dict.fromkeys(names, (0.9, 0.8)))

    figure = damage.draw_classes(many)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)

    for axes in figure.axes:
        boxes = [each.get_window_extent(renderer) for each in axes.get_yticklabels()]
        assert len(boxes) == drawn
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    assert axes.get_yticklabels()[-1].get_text() == names[-1]  # those that carry most


def test_metrics_of_ones_own_stand_wherever_accuracy_does():
    """They were in run.json alone: a segmenter's report spoke of its loss and of nothing else."""
    was, made = {"IoU": 0.5, "pixels": 2.0}, make_record(accuracy=False)
    scored = [
        each.model_copy(
            update={
                "scores": {
                    split: scores | {"IoU": 0.5 + each.outer_step / 8, "pixels": 2.0}
                    for split, scores in each.scores.items()
                }
            }
        )
        for each in made.iterates
    ]
    baseline = Baseline(
        name="low-loss", **scored[0].model_dump(include={"value", "final", "scores"})
    )
    record = made.model_copy(update={"iterates": scored, "baselines": [baseline]})
    now = f"{0.5 + record.chosen / 8:.4f}"

    told = f"IoU rose from {was['IoU']:.4f} to {now}; pixels stayed at 2.0000."
    assert told in record.headline()
    assert ("Test IoU", now) in [(each.label, each.value) for each in record.numbers()]
    assert record.table()[record.chosen]["test IoU"] == now
    losses_shown = losses.of(record)
    assert losses_shown.title == "Loss and metrics"
    assert losses_shown.tables[0].rows[record.chosen]["Test IoU"] == now
    rows = comparison.section(material_of(record)).tables[0].rows
    assert {row["Set-up"]: row["Test IoU"] for row in rows}[f"outer step {record.chosen}"] == now
