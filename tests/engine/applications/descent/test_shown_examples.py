"""Examples in a report: the right ones, with what strangers wrote as text."""

from dataclasses import replace

import pytest
import torch

from engine.applications.descent.figures import classes
from engine.applications.descent.figures.examples import shown_examples
from engine.applications.shown_examples import candidate, together
from engine.problems.data.splits import DataSet, Examples
from engine.problems.pairs.splits import Pairs
from tests.helpers.runs.made_records import make_curves, make_material, make_record, render

NAMES = ("s/0", "s/1", "s/2", "s/3")


def data(channels=3):
    drawn = torch.Generator().manual_seed(0)
    pairs = Pairs(
        torch.rand(4, channels, 5, 5, generator=drawn),
        torch.zeros(4, 2, dtype=torch.int64),
        torch.arange(4),
        ("<script>alert(1)</script>", "a & b", "$x_1$", "plain"),
        NAMES,
    )
    wrong = torch.tensor([True, False, False, False])
    return DataSet({"train": pairs}, 4, wrong, "", None, torch.arange(4))


def test_dropped_and_kept_pairs_are_ranked_by_what_one_more_copy_does():
    """The page shows which pairs the metagradient speaks of, worst and best first."""
    found = shown_examples(data(), torch.tensor([0, 1, 0, 1]), torch.tensor([2.0, -1.0, 3.0, -4.0]))

    dropped, kept, right = found.values()
    assert [pair.name for pair in dropped] == ["s/2", "s/0"]
    assert [pair.name for pair in kept] == ["s/3", "s/1"]
    assert [pair.marked for pair in dropped] == [False, True]
    assert list(found)[2] == "Surprising: dropped, although known to be right"
    assert [pair.name for pair in right] == ["s/2"]


def test_run_that_maximizes_speaks_for_what_raises_the_objective():
    """An attack drops what would lower the objective: there the sign has the other sense."""
    counts, score = torch.tensor([1, 1, 0, 0]), torch.tensor([2.0, -1.0, 3.0, -4.0])
    found = shown_examples(data(), counts, score, uphill=True)

    assert {words: [pair.name for pair in pairs] for words, pairs in found.items()} == {
        "Dropped: more of these would lower the objective most": ["s/3", "s/2"],
        "Kept: more of these would raise the objective most": ["s/0", "s/1"],
        "Surprising: dropped, although at the start the metagradient spoke for it": ["s/2"],
        "Surprising: kept, although at the start the metagradient spoke against it": ["s/1"],
    }


def test_what_surprises_most_comes_first():
    """Where nothing is known of the examples, that is where the first metagradient was loudest."""
    counts = torch.tensor([0, 0, 1, 1])
    score = torch.tensor([-1.0, -3.0, 2.0, 4.0])

    *_, out, kept = shown_examples(own(str), counts, score).values()

    assert [each.text for each in out] == ["1", "0"]
    assert [each.text for each in kept] == ["3", "2"]


@pytest.mark.parametrize(
    ("kind", "words"), [("counts", "by one more copy of"), ("weights", "by the weight of")]
)
def test_numbers_have_the_unit_of_the_metaparameter(kind, words):
    """A copy that is added at one step is not the weight in the whole training."""
    curves = make_curves(value=torch.tensor([0.0, 1, 0, 1]))
    score = torch.tensor([2.0, -1.0, 3.0, -4.0])

    assert words in render(make_record(kind=kind), curves, data=data(), first_gradient=score)


def test_captions_of_strangers_are_escaped_in_the_page():
    """Captions of the web hold anything, also scripts."""
    curves = make_curves(value=torch.tensor([0.0, 1, 0, 1]))

    page = render(
        make_record(), curves, data=data(), first_gradient=torch.tensor([2.0, -1.0, 3.0, -4.0])
    )

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &amp; b" in page
    assert page.count('<li class="wrong">') == 1


def test_examples_that_are_no_pairs_show_none():
    """Other reports have no such section."""
    assert shown_examples(data(), torch.ones(3), torch.ones(3)) == {}


def own(show, names=()):
    inputs = torch.arange(4.0)[:, None]
    split = {"train": Examples(inputs, torch.arange(4))}
    wrong = torch.zeros(4, dtype=torch.bool)
    return DataSet(split, 4, wrong, "", ids=torch.arange(4), names=names, show=show)


def test_examples_of_ones_own_are_shown_as_their_problem_says():
    """Pictures, texts and rows of tables, each under the name that people know it by."""
    image = pytest.importorskip("PIL.Image", reason="pictures need the extra clip")
    shows = {
        0: lambda place: image.new("RGB", (4, 4)),
        1: lambda place: f"text <b>{place}</b>",
        2: lambda place: {"age": place, "city": "Rome"},
        3: lambda place: [][place],
    }
    data = own(lambda place: shows[place](place), ("n0", "n1", "n2", "n3"))
    counts, score = torch.tensor([1, 1, 1, 0]), torch.tensor([-3.0, -2.0, -1.0, 4.0])
    found = shown_examples(data, counts, score)

    (broken,), kept, *_ = found.values()
    assert "IndexError" in broken.text
    assert [each.name for each in kept] == ["n0", "n1", "n2"]
    assert kept[0].images[""].startswith("data:image/png;base64,")
    assert [each.text for each in kept[1:]] == ["text <b>1</b>", "age 2, city Rome"]
    curves = make_curves(value=counts.double())
    page = render(make_record(), curves, data=data, first_gradient=score)
    assert "text &lt;b&gt;1&lt;/b&gt;" in page


def labelled(given, true, classes=("cat", "dog", "owl")):
    given, true = torch.tensor(given), torch.tensor(true)
    split = {"train": Examples(torch.rand(len(given), 1, 3, 3), given)}
    ids = torch.arange(len(given))
    return DataSet(split, 3, given != true, "", ids=ids, classes=classes, true_labels=true)


def test_wrong_label_is_shown_beside_the_true_one():
    """Whoever sees a wrong label asks what it should have been."""
    data = labelled([0, 1, 2], [0, 2, 2])

    assert [candidate(data, place).text for place in range(3)] == [
        "label cat",
        "label dog, truly owl",
        "label owl",
    ]


def test_rows_have_both_labels_as_columns():
    """A table has a column for each, the given one last, as elsewhere."""
    data = labelled([0, 1], [0, 2])
    data = replace(data, splits={"train": Examples(torch.rand(2, 2), torch.tensor([0, 1]))})

    (row,) = together([candidate(data, 1)], ["0.1"]).rows

    assert list(row) == ["example", "score", "input", "true label", "label"]
    assert (row["true label"], row["label"]) == ("owl", "dog")


def by_class(data, value):
    curves = make_curves(value=torch.tensor(value), corrupted=data.corrupted)
    return classes.section(make_material(make_record(), curves, data))


def test_classes_are_counted_that_first_which_lost_most():
    """Counted by hand: of two cats both go, of three dogs one, and the owl stays."""
    data = labelled([0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 2, 2])

    found = by_class(data, [0.0, 0, 0, 1, 2, 1])

    (table,) = found.tables
    assert [list(row.values()) for row in table.rows] == [
        ["cat", 2, "2 (100 %)", 0, 1, 0, 1],
        ["dog", 3, "1 (33 %)", 2, 0, 1, 2],
        ["owl", 1, "0 (0.0 %)", 1, 0, 0, 0],
    ]
    assert not table.wide
    assert set(table.columns.values()) == {"word", "number"}
    assert found.notes == [
        "By the label that was given: most was dropped of class cat, 2 of 2 (100 %), and least of "
        "class owl, 0 of 1 (0.0 %)."
    ]


def test_classes_are_counted_where_nothing_is_known_of_them():
    """Labels alone give three columns of numbers; targets that are no classes give no section."""
    split = {"train": Examples(torch.zeros(3, 2), torch.tensor([0, 1, 1]))}
    data = DataSet(split, 2, torch.zeros(3, dtype=torch.bool), "", ids=torch.arange(3))

    found = by_class(data, [0.5, 1.5, 1.0])

    counted = ["candidates", "weighs little", "weighs much"]
    assert list(found.tables[0].rows[0]) == ["class", *counted]
    assert by_class(replace(data, num_classes=0), [0.0, 1, 1]) is None
