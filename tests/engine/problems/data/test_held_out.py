"""Rows that are held out: which ones, and that a class is never held out whole."""

import pytest
import torch

from engine.numerics.determinism import generator
from engine.problems.data.held_out import held_out_places, notes_of_single_classes

CLASSES = {
    "one row of a class": ["a"] * 19 + ["b"],
    "several of one row": ["a"] * 10 + [f"single {n}" for n in range(10)],
    "two rows of a class": ["a"] * 18 + ["b", "b"],
    "a row without a class": ["a"] * 19 + [None],
}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_of_every_class_a_row_stays(kind, share):
    """A draw that took the only row of a class was told as a mistake of the data."""
    classes = CLASSES[kind]
    for seed in range(20):
        kept, held = held_out_places(20, share, seed, classes)

        assert sorted([*kept, *held]) == list(range(20))
        assert {classes[place] for place in kept} | {None} == {*classes} | {None}
        assert kept == sorted(kept)
        assert held == sorted(held)


def test_what_is_drawn_does_not_depend_on_classes_that_have_rows_enough():
    """The same rows as ever are held out where the draw leaves some of every class."""
    order = torch.randperm(40, generator=generator(3, "held-out rows")).tolist()
    expected = sorted(order[16:]), sorted(order[:16])

    assert held_out_places(40, 0.4, 3) == expected
    assert held_out_places(40, 0.4, 3, [order.index(n) % 2 for n in range(40)]) == expected


@pytest.mark.parametrize(("total", "classes"), [(0, ()), (1, ()), (3, "abc")])
def test_too_few_rows_leave_none_to_hold_out(total, classes):
    """Whoever asks says what that means."""
    assert held_out_places(total, 0.4, 0, classes) == (list(range(total)), [])


def test_classes_of_one_row_are_told():
    """Nothing says how well they are learned."""
    assert notes_of_single_classes(["a", "b", "b", "c"], "The label 'y'") == [
        "The label 'y' has 2 classes of one example each, which are trained on and not held out: "
        "a, c."
    ]
    assert notes_of_single_classes(["a", "a"], "The label 'y'") == []
