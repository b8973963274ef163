"""Data sets: splits, flipped labels, IDX files, and the examples that are refused."""

from dataclasses import replace

import pytest
import torch

from engine.errors import DataError
from engine.problems.classes.data_sets import READERS, Source, load_data
from engine.problems.data.splits import Examples, check_examples, examples_fingerprint
from engine.recipes.arguments.data import PAIRS, DataName, DataSettings

DIGITS = DataSettings(num_train=100, num_objective=40, num_validation=30, num_test=20)


def rows(examples):
    """Each example as a tuple, so that splits can be compared as sets."""
    return {tuple(row) for row in examples.inputs.flatten(1).tolist()}


def test_digits_are_cut_into_four_splits_of_the_sizes_asked_for():
    """One call gives everything that a run needs: read this to learn the shapes."""
    data = load_data(DIGITS, torch.float32)

    sizes = {name: len(examples) for name, examples in data.splits.items()}
    train = data.splits["train"]
    assert sizes == {"train": 100, "objective": 40, "validation": 30, "test": 20}
    assert train.inputs.shape == (100, 1, 8, 8)
    assert train.inputs.dtype == torch.float32
    assert (train.inputs.min(), train.inputs.max()) == (0, 1)
    assert data.num_classes == 10
    assert not data.corrupted.any()


def test_num_test_left_empty_takes_all_that_are_left():
    """Final figures are better on more examples, so none is wasted unless asked."""
    data = load_data(DIGITS.model_copy(update={"num_test": None}), torch.float32)

    assert len(data.splits["test"]) == 1797 - 100 - 40 - 30


def test_splits_share_no_example():
    """A validation example that was trained on would flatter every descent."""
    data = load_data(DIGITS, torch.float64)

    num_distinct = len(set.union(*(rows(examples) for examples in data.splits.values())))
    assert num_distinct == 190  # no two of the digits are equal


def test_same_config_gives_the_same_bits():
    """A retry on another worker must see the same examples."""
    first = load_data(DIGITS, torch.float32)
    second = load_data(DIGITS, torch.float32)

    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.splits["train"].inputs, second.splits["train"].inputs)


def test_loading_leaves_the_global_generator_alone():
    """The split has a generator of its own, so a user's own draws do not shift."""
    before = torch.get_rng_state()

    load_data(DIGITS, torch.float32)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"num_test": 21}, {"flip_fraction": 0.01}],
    ids=["another seed", "one more test example", "one flipped label"],
)
def test_fingerprint_changes_with_the_examples(change):
    """A stage made from other examples must never be reused."""
    changed = load_data(DIGITS.model_copy(update=change), torch.float32)

    assert changed.fingerprint != load_data(DIGITS, torch.float32).fingerprint


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 1])),
        (torch.zeros(2, 3, 1), torch.tensor([0, 1])),
        (torch.full((2, 3), -0.0), torch.tensor([0, 1])),
        (torch.zeros(2, 3), torch.tensor([1, 0])),
    ],
    ids=["dtype", "shape", "one bit", "order of labels"],
)
def test_fingerprint_sees_every_difference(inputs, labels):
    """Equal values are not enough: type, shape and the sign of zero can change a run."""
    reference = Examples(torch.zeros(2, 3), torch.tensor([0, 1]))

    assert examples_fingerprint({"train": Examples(inputs, labels)}) != examples_fingerprint(
        {"train": reference}
    )


def test_fingerprint_does_not_depend_on_the_order_of_names():
    """A mapping that was read back may list its splits in another order."""
    one, two = (Examples(torch.full((1,), x), torch.tensor([0])) for x in (1.0, 2.0))

    assert examples_fingerprint({"a": one, "b": two}) == examples_fingerprint({"b": two, "a": one})


@pytest.mark.parametrize("fraction", [0.0, 0.07, 0.125, 1.0])
def test_flipped_labels_are_counted_marked_and_wrong(fraction):
    """Exactly round(fraction * num_train) labels differ from the clean ones, where marked."""
    clean = load_data(DIGITS, torch.float32)

    flipped = load_data(DIGITS.model_copy(update={"flip_fraction": fraction}), torch.float32)

    is_changed = flipped.splits["train"].labels != clean.splits["train"].labels
    assert torch.equal(is_changed, flipped.corrupted)
    assert int(flipped.corrupted.sum()) == round(fraction * 100)
    assert flipped.splits["train"].labels.unique().tolist() == list(range(10))


def test_flips_touch_training_labels_only():
    """Held-out labels judge the descent, so they stay true."""
    clean = load_data(DIGITS, torch.float32).splits

    flipped = load_data(DIGITS.model_copy(update={"flip_fraction": 1.0}), torch.float32).splits

    held_out = ("objective", "validation", "test")
    assert all(torch.equal(clean[name].labels, flipped[name].labels) for name in held_out)
    assert torch.equal(clean["train"].inputs, flipped["train"].inputs)


def test_a_larger_share_of_flips_contains_the_smaller():
    """Runs at several noise levels differ by the added flips and nothing else."""
    some, more = (
        load_data(DIGITS.model_copy(update={"flip_fraction": share}), torch.float32)
        for share in (0.1, 0.3)
    )

    kept = some.splits["train"].labels[some.corrupted]
    assert torch.equal(more.splits["train"].labels[some.corrupted], kept)


def test_flipped_labels_are_uniform_over_the_other_classes():
    """A preferred wrong class would be a different corruption; chi-squared below its 99.9 %."""
    settings = DataSettings(num_train=1790, num_objective=1, num_validation=1, flip_fraction=1.0)
    flipped = load_data(settings, torch.float32).splits["train"].labels
    clean = load_data(settings.model_copy(update={"flip_fraction": 0.0}), torch.float32)

    offsets = (flipped - clean.splits["train"].labels) % 10

    counts = torch.bincount(offsets, minlength=10)[1:].double()
    expected = 1790 / 9
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # 8 degrees of freedom


def test_every_data_set_has_a_reader():
    """A name in the recipe's form without a reader would fail only after the run started."""
    # Texts are read in engine.problems.texts.splits, pairs in engine.problems.pairs.
    assert set(READERS) | {DataName.TEXT, *PAIRS} == set(DataName)


def read_two_clusters(settings):
    """A reader of float features, as another data set would bring."""
    return Source(
        pool=(torch.eye(2).repeat(10, 1), torch.arange(20) % 2),
        num_classes=2,
        origin=f"the clusters under arguments.url={settings.url}",
    )


def test_another_data_set_is_one_more_reader(monkeypatch):
    """Split, flips, checks and fingerprint come for free; inputs stay as stored unless asked."""
    monkeypatch.setitem(READERS, DataName.DIGITS, read_two_clusters)
    settings = DataSettings(num_train=10, num_objective=4, num_validation=3, flip_fraction=0.5)

    data = load_data(settings, torch.float32)

    train = data.splits["train"]
    assert [len(examples) for examples in data.splits.values()] == [10, 4, 3, 3]
    assert torch.equal(train.inputs.argmax(dim=1) != train.labels, data.corrupted)


def test_a_reader_that_returns_nan_is_refused_where_the_data_came_from(monkeypatch):
    """The same check guards every data set, before a step is trained."""

    def read_broken(settings):
        source = read_two_clusters(settings)
        source.pool[0][7] = torch.nan
        return source

    monkeypatch.setitem(READERS, DataName.DIGITS, read_broken)

    with pytest.raises(DataError, match=r"1 of 20 .* arguments\.url=/x .*first example 7.*Repair"):
        load_data(DataSettings(url="/x"), torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_train": 5000},
            r"= 5090 examples, but digits has only 1797.*Lower arguments\.num_train",
        ),
        ({"num_test": 1628}, r"= 1798 examples, but digits has only 1797.*arguments\.num_test"),
        ({"num_train": 1727, "num_test": None}, r"1 \(test\) = 1798.*neither empty"),
        ({"url": "/data"}, r"arguments\.url is /data.*Leave arguments\.url empty"),
    ],
    ids=["too many to train on", "one too many to test on", "none left to test on", "url"],
)
def test_splits_of_digits_that_cannot_be_made_are_refused(change, message):
    """The message says how many examples there are and which setting to lower."""
    with pytest.raises(DataError, match=message):
        load_data(DIGITS.model_copy(update=change), torch.float32)


def test_user_tensors_that_fit_pass_the_check():
    """Targets need not be classes: a regression has float labels of any shape."""
    check_examples(torch.zeros(3, 5), torch.zeros(3, 2))
    check_examples(torch.zeros(3), torch.tensor([0, 1, 2]), num_classes=3)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2), "3 inputs but 2 labels in my data.*one label"),
        (torch.zeros(3, 2), torch.tensor(1.0), "3 inputs but 0 labels"),
        (torch.zeros(0, 2), torch.zeros(0), "no examples in my data.*at least one"),
        (torch.tensor([0.0, torch.nan]), torch.zeros(2), "1 of 2 .* inputs .* first example 1"),
        (torch.tensor([torch.inf, 0.0]), torch.zeros(2), "first example 0.*Repair or remove"),
        (torch.zeros(1), torch.tensor([torch.nan]), "have labels that are NaN"),
        (torch.zeros(2), torch.tensor([0, 3]), "run from 0 to 3.*number the classes from 0"),
        (torch.zeros(2), torch.tensor([-1, 0]), "run from -1 to 0"),
        (torch.zeros(1), torch.tensor([1.0]), r"are torch\.float32.*\.long\(\)"),
    ],
    ids=[
        "number",
        "scalar label",
        "no examples",
        "NaN",
        "infinity",
        "NaN label",
        "class too high",
        "negative class",
        "float classes",
    ],
)
def test_user_tensors_that_do_not_fit_are_refused(inputs, labels, message):
    """Each refusal says what was found, where, and what to do."""
    with pytest.raises(DataError, match=message):
        check_examples(inputs, labels, num_classes=3, origin="my data")


def test_a_data_set_cannot_be_changed_in_place():
    """Its fingerprint would no longer tell the truth."""
    data = load_data(DIGITS, torch.float32)

    with pytest.raises(AttributeError):
        data.num_classes = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(data, num_classes=3).num_classes == 3


def test_digits_are_those_of_scikit_learn(monkeypatch):
    """They are read from its file, without importing it; where the file moved, it is asked."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8)

    found = READERS[DataName.DIGITS](DIGITS).pool
    monkeypatch.setattr("pathlib.Path.is_file", lambda self: False)
    asked = READERS[DataName.DIGITS](DIGITS).pool

    for mine in (found, asked):
        assert torch.equal(mine[0], images)
        assert torch.equal(mine[1], torch.from_numpy(labels))
        assert mine[0].dtype == images.dtype
