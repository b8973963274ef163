"""Columns of a table: their names, what numbers the rows, constants, and numbers of many digits."""

import decimal
import io

import numpy as np
import pytest

from engine.errors import DataError
from engine.problems.shipped import table
from engine.problems.tables.files import read_table
from engine.recipes.arguments.data import Target

arrow = pytest.importorskip("pyarrow", reason="tables need the extra parquet")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = 20


def put(path, heading, cells):
    """Write a table of CSV whose last column is a label of two classes."""
    lines = [heading, *(f"{cells(n)},{'ab'[n % 2]}" for n in range(ROWS))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def stored(path, **columns):
    parquet.write_table(arrow.table(columns), path)
    return str(path)


NUMBERED = {
    "pandas": ("", lambda n: n),
    "R": ('""', lambda n: f'"{n + 1}"'),
    "shuffled": ("", lambda n: (7 * n) % ROWS),
    "drawn": ("", lambda n: 3 * n + 100),
    "written twice by pandas": ("Unnamed: 0", lambda n: n),
    "written three times by pandas": ("Unnamed: 0.1", lambda n: n),
    "and once more": ("Unnamed: 0.1.1", lambda n: n),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_column_without_a_name_that_numbers_the_rows_is_not_read(kind, tmp_path):
    """In a table that is sorted by class it tells the label."""
    name, number = NUMBERED[kind]
    url = put(tmp_path / "t.csv", f"{name},x,y", lambda n: f"{number(n)},{n % 3}")

    found = table(url, label="y")

    assert found.train.inputs.shape[1] == 1
    assert "as pandas and R number rows, and is not read" in found.notes[0]
    features = (name.strip('"'), "x")
    assert table(url, label="y", features=features).train.inputs.shape[1] == 2


@pytest.mark.parametrize(
    "cells", [lambda n: n % 3, lambda n: n / 2, lambda n: f"w{n}", lambda n: n - 5]
)
def test_column_without_a_name_that_says_something_is_read(cells, tmp_path):
    """Repeated numbers, fractions, words and numbers below 0 are no numbers of rows."""
    found = table(put(tmp_path / "t.csv", ",x,y", lambda n: f"{cells(n)},{n}"), label="y")

    assert found.train.inputs.shape[1] > 1
    assert not [note for note in found.notes if "not read" in note]


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_numberings_of_two_tables_that_were_put_together_are_told(name, tmp_path):
    """They repeat themselves, as other whole numbers do: which of them it is, people know."""
    url = put(tmp_path / "t.csv", f"{name},x,y", lambda n: f"{n % 10},{n % 3}")

    told = f"The column {name!r} has no name, and its whole numbers are read as a feature."
    assert told in table(url, label="y").notes[0]
    assert table(url, label="y", features=(name, "x")).notes == ()
    assert table(url, label="y", names=name).notes == ()


def test_table_of_nothing_but_a_numbering_says_what_was_left_out(tmp_path):
    """Who means the column reads how it is asked for."""
    url = put(tmp_path / "t.csv", ",y", lambda n: n)

    with pytest.raises(DataError, match=r"nothing to learn from.*name it in arguments\.features"):
        table(url, label="y")


@pytest.mark.parametrize("value", ["3", ""])
def test_constant_that_differs_in_held_out_rows_is_told(value, tmp_path):
    """What the model makes of it is drawn and never trained, and its loss counts."""
    train = put(tmp_path / "train.csv", "x,k,y", lambda n: f"{n},2")
    held = put(tmp_path / "held.csv", "x,k,y", lambda n: f"{n},{value if n == 4 else 2}")

    notes = table(train, label="y", objective=held).notes

    told = "The column 'k' is 2 in every training row and another number in objective rows, e.g. 3."
    assert [note.startswith(told) for note in notes] == ([True] if value else [])
    assert table(train, label="y", objective=train).notes == ()


def test_separators_at_the_ends_of_lines_are_no_column(tmp_path):
    """Some programs write one behind every cell."""
    path = tmp_path / "t.csv"
    path.write_text("x,y,\n" + "".join(f"{n},{'ab'[n % 2]},\n" for n in range(ROWS)))

    found = table(str(path), label="y")

    assert found.train.inputs.shape[1] == 1
    assert found.notes == ("The column '' has no cells, and is not read.",)


@pytest.mark.parametrize("asked", ["\u00e9", "e\u0301"])
@pytest.mark.parametrize("written", ["\u00e9", "e\u0301"])
def test_names_of_columns_are_the_same_in_both_forms_of_unicode(asked, written, tmp_path):
    """What a Mac has typed was not found in what it has saved elsewhere."""
    url = put(tmp_path / "t.csv", f"{written},y", lambda n: n)
    other = stored(tmp_path / "t.parquet", **{written: [*range(ROWS)], "y": ["a", "b"] * 10})
    packed = io.BytesIO()
    np.savez(packed, **{written: np.arange(ROWS), "y": np.array(["a", "b"] * 10)})
    (tmp_path / "t.npz").write_bytes(packed.getvalue())

    for each in (url, other, str(tmp_path / "t.npz")):
        assert table(each, label="y", features=(asked,)).train.inputs.shape[1] == 1
        assert table(each, label="y", names=asked, features=(asked,)).names


def test_columns_whose_names_look_the_same_are_refused(tmp_path):
    """One of them would be read in place of the other."""
    with pytest.raises(DataError, match="several columns"):
        table(put(tmp_path / "t.csv", "\u00e9,e\u0301,y", lambda n: f"{n},{n}"), label="y")


def test_whole_numbers_beyond_what_arrow_holds_keep_their_digits(tmp_path):
    """They became floats: two labels were one class, and rows were called alike."""
    code = 2**64 - 1
    url = put(tmp_path / "t.csv", "id,x,code,y", lambda n: f"{code - n},{n},{code - n % 2}")

    found = table(url, label="code", target=Target.CLASS, names="id", features=("x",))

    assert found.classes == (str(code - 1), str(code))
    assert len({*found.names, *found.held_out_names["objective"]}) == ROWS
    assert read_table(url, "train")["id"] == [code - n for n in range(ROWS)]


@pytest.mark.parametrize("cell", ["1e30", "12345678901234567890.5", "inf"])
def test_numbers_that_are_not_whole_stay_floats(cell, tmp_path):
    """One of them beside whole ones makes a column of floats."""
    url = put(tmp_path / "t.csv", "x,y", lambda n: cell if n == 3 else f"{2**64 - n}")

    assert {type(each) for each in read_table(url, "train")["x"]} == {float}


@pytest.mark.parametrize("value", [0.1, 0.3, 1e9 + 0.1, -7.7])
@pytest.mark.parametrize("column", ["feature", "label"])
def test_constant_is_zero_whatever_its_rounding(value, column, tmp_path):
    """Its spread was a last digit, so that another value of a held-out row was 1e15."""
    cells = {"feature": f"{value},{{}}.5", "label": f"{{}},{value}"}[column]
    train, held = (tmp_path / name for name in ("train.csv", "held.csv"))
    train.write_text("x,y\n" + "".join(cells.format(n) + "\n" for n in range(30)))
    held.write_text(f"x,y\n{value + 1},{value + 1}\n")

    found = table(str(train), label="y", target=Target.NUMBER, objective=str(held))

    known, other = (
        (found.train.inputs, found.objective.inputs)
        if column == "feature"
        else (found.train.labels, found.objective.labels)
    )
    assert not known.any()
    assert other.item() == pytest.approx(1, abs=1e-6)


def test_whole_decimals_are_the_classes_that_whole_numbers_are(tmp_path):
    """A database writes 1.00 where another file has 1."""
    decimals = [decimal.Decimal("1.00"), decimal.Decimal("2.00")] * 10
    train = stored(tmp_path / "train.parquet", x=[*range(ROWS)], y=decimals)
    held = stored(tmp_path / "held.parquet", x=[1, 2], y=[2, 1])

    found = table(train, label="y", objective=held)

    assert found.classes == ("1", "2")
    assert found.objective.labels.tolist() == [1, 0]


def test_only_row_of_a_class_is_trained_on_and_told(tmp_path):
    """Where the draw held it out, the class was one that no training row has."""
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{n},{'b' if n == 7 else 'a'}\n" for n in range(ROWS)))

    for seed in range(6):
        found = table(str(path), label="y", seed=seed)

        assert found.train.labels.bincount().tolist()[1] == 1
        assert not found.objective.labels.any()
        assert found.notes[0] == (
            "The label 'y' has one example of b, which is trained on and not held out."
        )
