"""What is known of a problem's candidates, beside how many there are; and splits that are cut."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from engine.errors import ConfigurationError, DataError
from engine.problems.base import Problem
from engine.problems.data.splitting import HELD_OUT, data_set, own_groups


def rows(number, seed):
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 3
    return torch.randn(number, 4, generator=drawn), labels


def problem(**parts):
    given = {
        "model": nn.Linear(4, 3),
        "loss": lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
        "train": rows(12, 0),
        "objective": rows(24, 1),
    }
    return Problem(**given | parts)


def test_splits_that_are_left_out_are_half_and_two_quarters_of_every_class():
    """The objective keeps most, since it is what the run is moved by."""
    data, notes = data_set(problem(), torch.float32)

    assert [len(data.splits[name]) for name in HELD_OUT] == [12, 6, 6]
    counts = [torch.bincount(data.splits[name].labels).tolist() for name in HELD_OUT]
    assert counts == [[4, 4, 4], [2, 2, 2], [2, 2, 2]]
    assert data.num_classes == 3
    assert "no validation and no test split" in notes[0]


def test_one_split_that_is_left_out_is_half():
    """And the one that was given stays."""
    given = rows(5, 2)

    data, _ = data_set(problem(test=given), torch.float32)

    assert [len(data.splits[name]) for name in HELD_OUT] == [12, 12, 5]
    assert torch.equal(data.splits["test"].inputs, given[0])


def test_what_is_shown_of_a_split_that_was_cut_is_the_example_itself():
    """Its place in the split is another one than among the objective's examples."""
    inputs, _ = rows(24, 1)
    shown = problem(show_held_out=lambda split, place: (split, inputs[place].tolist()))

    data, _ = data_set(shown, torch.float64)

    for name in HELD_OUT:
        for place, row in enumerate(data.splits[name].inputs):
            _, held = data.show_held_out(name, place)
            assert held == pytest.approx(row.tolist())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"names": ["a"] * 11}, "names of the problem has 11 entries for 12"),
        ({"ids": torch.arange(13)}, "ids of the problem has 13 entries for 12"),
        ({"corrupted": torch.zeros(3, dtype=torch.bool)}, "corrupted of the problem has 3 entries"),
        ({"groups": {"site": ["a"] * 2}}, r"groups\['site'\] of the problem has 2 entries for 12"),
    ],
)
def test_what_is_known_of_more_or_fewer_candidates_is_refused(parts, words):
    """Else every name after the missing one would stand beside somebody else."""
    with pytest.raises(DataError, match=words):
        data_set(problem(**parts), torch.float32)


def test_copies_are_counted_in_every_pair_of_splits():
    """Each says less than it seems to, for a reason of its own."""
    train, held = rows(12, 0), rows(6, 1)
    both = tuple(torch.cat([one[:2], other]) for one, other in zip(train, held, strict=True))

    _, notes = data_set(
        problem(train=train, objective=held, validation=both, test=rows(4, 5)), torch.float32
    )

    told = " ".join(notes)
    assert "2 of 8 validation examples are the same as a training candidate" in told
    assert "6 of 8 validation examples are objective examples too, so the iterate is chosen" in told
    assert "test examples" not in told


def test_groups_are_numbered_by_their_names():
    """The numbers are in keys and reports, so they may not depend on the order in a set."""
    sites = ["Ulm", "Bonn", "Ulm", "Kiel", "Bonn", "Kiel"] * 2
    data, _ = data_set(problem(groups={"site": sites}), torch.float32)

    assert own_groups(data, "site").tolist() == [2, 0, 2, 1, 0, 1] * 2
    with pytest.raises(ConfigurationError, match=r"class, cluster, site; or name the column"):
        own_groups(replace(data), "town")


@pytest.mark.parametrize(
    ("labels", "number"), [([0, 4, 1, 2], 5), ([-1, 1, 1, -1], 0), ([0.5, 1.0, 2.0, 0.0], 0)]
)
def test_classes_are_counted_where_labels_number_them(labels, number):
    """Of signs and of quantities nobody can say how many there are."""
    given = torch.randn(4, 4), torch.tensor(labels)
    splits = dict.fromkeys(("train", "objective", "validation", "test"), given)

    assert data_set(problem(**splits), torch.float32)[0].num_classes == number


def test_true_labels_say_which_candidates_are_wrong():
    """Whoever knows the true classes need not say twice which labels are wrong."""
    true = [0, 1, 2] * 3 + [1, 1, 0]

    data, _ = data_set(problem(true_labels=true), torch.float32)

    assert data.true_labels is not None
    assert data.true_labels.tolist() == true
    assert data.corrupted.tolist() == [False] * 9 + [True, False, True]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"true_labels": [0, 1]}, "true_labels of the problem has 2 entries for 12"),
        ({"true_labels": [3] * 12}, "Labels in true_labels of the problem run from 3 to 3"),
        (
            {"true_labels": [0] * 12, "train": (rows(12, 0)[0], torch.zeros(12))},
            "no class each",
        ),
    ],
)
def test_true_labels_that_fit_nothing_are_refused(parts, words):
    """Each is told with what there is."""
    with pytest.raises(DataError, match=words):
        data_set(problem(**parts), torch.float32)


@pytest.mark.parametrize("number", [23, 25])
def test_names_of_examples_that_are_cut_are_one_for_each(number):
    """One too many would call every example of a split that was cut by another's name, or none."""
    names = [f"patient {place}" for place in range(number)]

    with pytest.raises(DataError, match=rf"has {number} names for 24 examples"):
        data_set(problem(held_out_names={"objective": names}), torch.float32)
