"""Parts of a problem that were handed in wrongly are refused by name; columns of all kinds do."""

import numpy as np
import pytest
import torch
from torch import nn

from engine import Problem
from engine.errors import ConfigurationError, DataError
from engine.problems.data.splits import Examples
from engine.problems.data.splitting import data_set

N = 12


def problem(**parts):
    """Return a small problem with a part of its own."""
    x, y = torch.randn(N, 3), torch.arange(N) % 2
    return Problem(
        model=nn.Linear(3, 2),
        loss=lambda model, batch: nn.functional.cross_entropy(
            model(batch[0]), batch[1], reduction="none"
        ),
        train=(x, y),
        objective=(x, y),
        **parts,
    )


WRONG = {
    "groups, no dict": ("groups", torch.arange(N)),
    "groups of a number": ("groups", {"source": 3}),
    "groups of a text": ("groups", {"source": "a" * N}),
    "groups of rows": ("groups", {"source": torch.zeros(N, 2)}),
    "groups, a nested list": ("groups", {"source": [[0]] * N}),
    "names, a text": ("names", "abcdefghijkl"),
    "names, a dict": ("names", {"a": 0}),
    "names, a number": ("names", N),
    "classes, a number": ("classes", 2),
    "classes, a text": ("classes", "cat"),
    "held-out names, a list": ("held_out_names", ["a"] * N),
    "held-out names of a text": ("held_out_names", {"objective": "a" * N}),
    "metrics, a function": ("metrics", lambda model, batch: 0),
    "metrics, a list": ("metrics", ["accuracy"]),
    "metrics, one called as the loss": ("metrics", {"loss": lambda model, batch: batch[1]}),
    "metrics, a name": ("metrics", {"accuracy": "accuracy"}),
    "metaparameters, a list": ("metaparameters", [1]),
    "show, a list": ("show", ["a"] * N),
    "augment, True": ("augment", True),
    "output, a number": ("output", torch.tensor(1.0)),
    "training loss, a name": ("training_loss", "mse"),
    "score, a dict": ("score", {}),
    "embedding, a tensor": ("embedding", torch.zeros(3)),
    "advance, a number": ("advance", 3),
    "number of classes, a list": ("num_classes", ["cat", "dog"]),
    "number of classes, half": ("num_classes", 2.5),
    "number of classes, below none": ("num_classes", -1),
    "chunk of none": ("chunk", 0),
    "chunk, a text": ("chunk", "all"),
    "bounds, one number": ("bounds", 1.0),
    "bounds, three": ("bounds", (0, 1, 2)),
    "bounds, texts": ("bounds", ("low", "high")),
    "bounds, a text": ("bounds", "01"),
    "bounds, turned": ("bounds", (1, 0)),
    "bounds, no number": ("bounds", (float("nan"), 1)),
    "bounds, of other shapes": ("bounds", (torch.zeros(3), torch.ones(2))),
    "corrupted, places": ("corrupted", [0, 5, 7]),
    "corrupted, a number": ("corrupted", 0.1),
    "corrupted, shares": ("corrupted", np.full(N, 0.5)),
    "ids, texts": ("ids", ["a"] * N),
    "ids, fractions": ("ids", torch.rand(N)),
    "notes, a text": ("notes", "These are words."),
    "origin, a number": ("origin", 3),
}


@pytest.mark.parametrize("what", WRONG)
def test_part_that_was_handed_in_wrongly_is_refused_by_name(what):
    """Some were an AttributeError at best, and at worst a letter for each example."""
    name, value = WRONG[what]

    with pytest.raises(ConfigurationError, match=name) as caught:
        problem(**{name: value})

    assert "Hand in" in str(caught.value)


def test_model_without_numbers_is_refused():
    """It was torch's own error, once the run had it moved."""
    columns = torch.randn(N, 3), torch.arange(N) % 2
    model = nn.Linear(3, 2, device="meta")

    with pytest.raises(ConfigurationError, match="Linear.* is on the device meta.*on the CPU"):
        Problem(model=model, loss=lambda m, b: m(b[0]).sum(1), train=columns, objective=columns)


@pytest.mark.parametrize("split", ["train", "objective", "validation", "test"])
def test_split_without_examples_is_refused_by_name(split):
    """A file that has a head and no rows was torch's word about an ambiguous shape."""
    columns = torch.randn(N, 3), torch.arange(N) % 2
    parts = dict.fromkeys(("train", "objective", "validation", "test"), columns)
    none = [column[:0] for column in columns]
    for empty in (tuple(none), Examples(*none)):  # as of a script, and of a ready problem
        parts[split] = empty
        made = Problem(model=nn.Linear(3, 2), loss=lambda m, b: m(b[0]).sum(1), **parts)

        with pytest.raises(DataError, match=f"There are no examples in {split} of the problem"):
            data_set(made, torch.float32)


def test_a_class_of_modules_is_no_function_of_the_seed():
    """Its constructor might take the seed for a width."""
    columns = torch.randn(N, 3), torch.arange(N) % 2

    with pytest.raises(ConfigurationError, match=r"class Linear.*Hand in Linear\(...\)"):
        Problem(
            model=nn.Linear, loss=lambda model, batch: batch[0], train=columns, objective=columns
        )


class Column:
    """A column of a table, as pandas and polars have it."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        """Return its entries."""
        return list(self.values)


RIGHT = {
    "a list": list,
    "a tuple": tuple,
    "an array": np.array,
    "a column": Column,
    "a tensor": torch.tensor,
    "what is read once": iter,
}


@pytest.mark.parametrize("kind", RIGHT)
def test_columns_of_every_kind_are_taken_as_what_they_hold(kind):
    """Entries of tensors are numbers, not tensors of their own, each of which is another key."""
    groups, wrong, ids = (
        [place % 3 for place in range(N)],
        [place < 2 for place in range(N)],
        [*range(N)],
    )

    made = problem(
        groups={"source": RIGHT[kind](groups)},
        corrupted=RIGHT[kind](wrong),
        ids=RIGHT[kind](ids),
        names=RIGHT[kind](ids),
    )
    data, _ = data_set(made, torch.float32)

    assert data.groups == {"source": tuple(groups)}
    assert len(set(data.groups["source"])) == 3
    assert data.corrupted.tolist() == wrong
    assert data.ids.tolist() == ids
    assert data.names == tuple(map(str, ids))


def test_bounds_of_numbers_arrays_and_tensors_are_taken():
    """The range of pixels, or of each column."""
    for bounds in ((0, 1), [0.0, 1.0], (torch.zeros(3), torch.ones(3)), (np.zeros(3), np.ones(3))):
        assert len(problem(bounds=bounds).bounds) == 2
