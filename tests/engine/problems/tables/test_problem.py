"""Rows of a table as numbers: held-out rows are read as training rows are, and nothing leaks."""

import datetime
import io
import math

import numpy as np
import pytest

from engine.errors import DataError
from engine.problems.shipped import table
from engine.recipes.arguments.data import Target

arrow = pytest.importorskip("pyarrow", reason="tables need the extra parquet")


def made(folder, train, held=None, **options):
    """Make a problem of two files of CSV, or of Parquet where columns are given."""
    paths = []
    for name, content in (("train", train), ("held", held)):
        path = folder / name
        if isinstance(content, dict):
            stream = io.BytesIO()
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(arrow.table(content), stream)
            path.write_bytes(stream.getvalue())
        elif content is not None:
            path.write_text(content)
        paths.append(None if content is None else str(path))
    options = {"label": "y"} | options
    return table(paths[0], objective=paths[1], **options)


WORDS = {
    "truth values": (["true", "false", "unknown"], ["true", "false"]),
    "numbers with zeros": (["01", "02", "A1"], ["01", "02"]),
    "fractions": (["1.50", "2.50", "many"], ["1.50", "2.50"]),
    "times": (["2024-01-01 10:00", "2024-01-01 11:00", "never"], ["2024-01-01 10:00"]),
    "what others take for missing": (["NA", "DE", "FR"], ["NA"]),
    "nulls": (["null", "nan", "x"], ["null", "nan"]),
}


@pytest.mark.parametrize("kind", WORDS)
def test_words_are_the_same_words_in_every_file(kind, tmp_path):
    """A file that holds only such words as are numbers elsewhere was another column."""
    train, held = WORDS[kind]
    rows = "x,y\n" + "".join(f"{word},{'ab'[place % 2]}\n" for place, word in enumerate(train * 4))
    objective = "x,y\n" + "".join(f"{word},a\n{word},b\n" for word in held)

    found = made(tmp_path, rows, objective)

    words = sorted(train)
    wanted = [words.index(word) for word in held for _ in "ab"]
    assert found.objective.inputs.argmax(1).tolist() == wanted
    assert found.objective.inputs.sum() == len(wanted)
    assert not [note for note in found.notes if "no training row has" in note]


@pytest.mark.parametrize(
    ("train", "held"),
    [(["true", "false", "maybe"], ["true", "maybe"]), (["01", "02", "A"], ["01"]),
     (["1", "0"], ["1.0", "0.0"]), (["1.0", "2.0"], ["1", "2"])],
    ids=["truth values", "zeros", "fractions held out", "fractions trained"],
)  # fmt: skip
def test_labels_are_the_same_classes_in_every_file(train, held, tmp_path):
    """1 and 1.0 are one class, and true is one whatever stands beside it."""
    rows = "x,y\n" + "".join(f"{place},{each}\n" for place, each in enumerate(train * 4))
    objective = "x,y\n" + "".join(f"1,{each}\n" for each in held)

    found = made(tmp_path, rows, objective, target=Target.CLASS)

    def plain(each):
        return each.removesuffix(".0")

    assert [found.classes[place] for place in found.objective.labels] == [*map(plain, held)]


def test_days_and_times_are_counted_from_one_beginning(tmp_path):
    """One file has days, the other times, and they were two thousand years apart."""
    first = datetime.datetime(2024, 1, 1)
    days = [first + datetime.timedelta(days=place) for place in range(12)]
    columns = {"x": [each.date() for each in days], "y": [place + 0.5 for place in range(12)]}
    times = {"x": [each + datetime.timedelta(hours=12) for each in days], "y": columns["y"]}

    found = made(tmp_path, columns, times)

    spread = float(np.arange(12.0).std())
    step = (found.objective.inputs - found.train.inputs) * spread
    assert step.flatten().tolist() == pytest.approx([0.5] * 12, abs=1e-5)


REFUSED = {
    "a missing number": ("x,y\n1,1.5\n2,\n3,2.5\n", {}, "labels of the objective rows has 1 miss"),
    "an infinite one": ("x,y\n1,1.5\n2,inf\n3,2.5\n", {}, "'inf', which is no number to learn"),
    "the label among the features": (None, {"features": ("x", "y")}, "would read what it is to"),
    "a feature twice": (None, {"features": ("x", "x")}, "features has 'x' twice"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_nan_or_leak_is_refused(kind, tmp_path):
    """One missing label in the objective makes it NaN, and nobody is told which."""
    held, options, words = REFUSED[kind]
    rows = "x,y\n" + "".join(f"{place},{place + 0.5}\n" for place in range(12))

    with pytest.raises(DataError, match=words):
        made(tmp_path, rows, held, **options)


COLUMNS = {
    "lists": ([[1.0, 2.0]] * 20, "holds lists"),
    "infinite": ([math.inf, *[1.0] * 19], "holds inf"),
    "huge": ([1.7e308, -1.7e308] * 10, "numbers as large as 1.7e.308"),
    "hours": ([datetime.time(place) for place in range(20)], "no number, e.g. '00:00:00' .time"),
    "a word among numbers": ([*map(str, range(199)), "abc"], "Most are numbers, but 'abc' is none"),
    "names": ([f"row {place}" for place in range(200)], "If rows are called by it, set names"),
    "thousands": ([f"1,{place:03d}" for place in range(200)], "Most look like numbers"),
}


@pytest.mark.parametrize(
    ("rows", "words"),
    [("y\n" + "a\nb\n" * 9, "no column besides the label 'y'"),
     ("x,y\n" + "1,a\n2,a\n" * 9, "All training rows have the label y=a")],
    ids=["no features", "one class"],
)  # fmt: skip
def test_table_with_nothing_to_learn_is_refused(rows, words, tmp_path):
    """Before a metagradient is found to be 0, which says nothing of the cause."""
    with pytest.raises(DataError, match=words):
        made(tmp_path, rows, None)


@pytest.mark.parametrize("kind", COLUMNS)
def test_column_that_cannot_be_numbers_says_what_it_holds(kind, tmp_path):
    """What to do depends on what is there."""
    column, words = COLUMNS[kind]

    with pytest.raises(DataError, match=words):
        made(tmp_path, {"x": column, "y": ["a", "b"] * (len(column) // 2)})


@pytest.mark.parametrize("label", [[[1, 2]] * 20, [{"a": 1}] * 20], ids=["lists", "records"])
def test_label_that_is_no_single_value_is_refused_by_name(label, tmp_path):
    """Nobody knows what a TypeError of ours is about."""
    with pytest.raises(DataError, match="The column 'y' of the labels holds"):
        made(tmp_path, {"x": [*range(20)], "y": label})


def test_numbers_with_marks_are_told(tmp_path):
    """Up to fifty of them would be words without a word."""
    found = made(tmp_path, 'x,y\n"1,234",a\n"2,345",b\n' * 5)

    assert any("though most look like numbers, e.g. '1,234'" in note for note in found.notes)


def test_index_of_pandas_is_no_feature(tmp_path):
    """It counts the rows, and rows are often sorted by what is to be told."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.5, 2.5] * 10, "y": ["a", "b"] * 10})
    (tmp_path / "t.csv").write_text(frame.to_csv())
    (tmp_path / "t.parquet").write_bytes(
        frame.set_index(pandas.Index([7, *range(19)])).to_parquet()
    )

    for name, index, why in (
        ("t.csv", "", "has no name and another whole number in each row"),
        ("t.parquet", "__index_level_0__", "is an index of pandas"),
    ):
        found = table(str(tmp_path / name), "y")
        assert found.train.inputs.shape[1] == 1
        assert f"The column {index!r} {why}" in " ".join(found.notes)


def test_rows_are_called_as_they_are_written(tmp_path):
    """Zeros at the beginning are a part of a name, and a row without one has its place."""
    rows = "".join(
        f"{f'{place:04d}' if place else ''},{place},{'ab'[place % 2]}\n" for place in range(20)
    )

    found = made(tmp_path, "id,x,y\n" + rows, "id,x,y\n" + rows, names="id")

    assert list(found.names) == ["row 1", *[f"{place:04d}" for place in range(1, 20)]]


@pytest.mark.parametrize(
    ("rows", "options"),
    [("y\n" + "a\nb\n" * 9, {}), ("y,n\n" + "a,1\nb,2\n" * 9, {"names": "n"})],
)
def test_table_of_labels_alone_is_refused_by_name(rows, options, tmp_path):
    """There is nothing that a model could read."""
    with pytest.raises(DataError, match="no column besides the label 'y'"):
        made(tmp_path, rows, **options)
