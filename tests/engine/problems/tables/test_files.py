"""Tables as people have them: every form of the same rows is the same, or is refused by name."""

import bz2
import datetime
import gzip
import io
import lzma
import os
import time
import warnings
import zipfile

import numpy as np
import pytest

from engine.errors import DataError, EngineError
from engine.problems.built import build_problem
from engine.problems.tables.cells import fitted
from engine.problems.tables.files import read_table
from engine.recipes.files import validate_recipe

arrow = pytest.importorskip("pyarrow", reason="tables need the extra parquet")

ROWS = [(f"{1 + place % 7}.5", "röd" if place % 2 else "blå", "yes") for place in range(20)]
WANTED = {
    "size": [float(size) for size, _, _ in ROWS],
    "colour": [colour for _, colour, _ in ROWS],
    "y": ["yes"] * 20,
}


def written(separator=",", end="\n", heading=("size", "colour", "y"), rows=ROWS):
    return "".join(separator.join(row) + end for row in (heading, *rows))


def parquet(columns, names=None):
    stream = io.BytesIO()
    table = arrow.Table.from_arrays(
        [arrow.array(each) for each in columns.values()], names=names or list(columns)
    )
    pytest.importorskip("pyarrow.parquet").write_table(table, stream)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def archive(*members):
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as made:
        warnings.simplefilter("ignore")  # a name may be there twice
        for name, content in members:
            made.writestr(name, content)
    return stream.getvalue()


def array(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


COMMAS = written(separator=";").replace(".5", ",5")

SAME = {
    "plain": written().encode(),
    "with a mark of byte order": written().encode("utf-8-sig"),
    "in UTF-16": written().encode("utf-16"),
    "lines of Windows": written(end="\r\n").encode(),
    "lines of old Macs": written(end="\r").encode(),
    "empty lines": written(end="\n\n").encode(),
    "semicolons": written(separator=";").encode(),
    "semicolons and decimal commas": COMMAS.encode(),
    "tabs": written(separator="\t").encode(),
    "tabs and decimal commas": written(separator="\t").replace(".5", ",5").encode(),
    "bars": written(separator="|").encode(),
    "words in bytes": parquet(WANTED | {"colour": [each.encode() for each in WANTED["colour"]]}),
    "quoted": written().replace("röd", '"röd"').encode(),
    "spaces in the heading": written(heading=("size", " colour", " y")).encode(),
    "gzip": gzip.compress(written().encode()),
    "bzip2": bz2.compress(written().encode()),
    "xz": lzma.compress(written().encode()),
    "parquet": parquet(WANTED),
    "gzip of parquet": gzip.compress(parquet(WANTED)),
    "npz": npz(**{name: np.array(column) for name, column in WANTED.items()}),
    "npz, bytes in another order": npz(
        **{name: np.array(column) for name, column in WANTED.items()}
        | {"size": np.array(WANTED["size"], dtype=">f8")}
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_every_form_of_the_same_rows_is_read_alike(name, tmp_path):
    """What a file is, is seen by its content, so its name says nothing."""
    (tmp_path / "table.dat").write_bytes(SAME[name])

    assert read_table(str(tmp_path / "table.dat"), "train") == WANTED


NUMBERS = np.arange(6.0)

REFUSED = {
    "a column twice": (written(heading=("size", "size", "y")).encode(), "several columns 'size'"),
    "a column twice in Parquet": (
        parquet({"a": [1], "b": [2]}, names=["a", "a"]),
        "several columns 'a'",
    ),
    "an array twice": (
        archive(("a.npy", array(NUMBERS)), ("a.npy", array(NUMBERS))),
        "several columns 'a'",
    ),
    "names that meet": (npz(a=np.ones((6, 2)), a_0=NUMBERS), "several columns 'a_0'"),
    "other lengths": (npz(a=NUMBERS, b=NUMBERS[:4]), "different lengths .a 6, b 4."),
    "one value": (npz(a=NUMBERS, k=np.float64(1)), "one value under 'k'"),
    "records": (npz(a=np.zeros(6, dtype=[("p", "f8")])), "records with fields"),
    "a workbook": (archive(("xl/workbook.xml", "<x/>")), "ZIP archive with a file 'xl/workbook"),
    "latin-1": (written().encode("latin-1"), "is not text in UTF-8: byte"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "is a PNG picture"),
    "a pickle": (b"\x80\x04\x95" + bytes(40), "is a Python pickle"),
    "nothing": (b"", "cannot be read as CSV, Parquet or npz"),
    "a quotation mark that nobody closes": (
        written().encode() + b'1.5,"r,yes\n2.5,b,no\n',
        "on line 22 that begins with a quotation mark",
    ),
    "two that swallow rows": (
        b'size,colour,y\n1.5,r,"yes\n2.5,b,no\n3.5,r,"yes\n',
        "on line 2 that begins with a quotation mark",
    ),
    "thousands or fractions": (b"size;y\n1,5;1.234\n2,5;2.345\n", "may be thousands or a frac"),
    "an array without names": (array(np.ones((6, 2))), "columns have no names"),
    "pickles": (npz(a=np.array([1, None], dtype=object)), "Python objects under 'a'"),
    "a short row": (written().encode() + b"1,2\n", "cannot be read as CSV, Parquet or npz"),
    "a stream that is cut off": (gzip.compress(written().encode())[:-9], "cut off or damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused_by_name(name, tmp_path):
    """One column of two would be lost in silence, and words in bytes would be classes."""
    content, words = REFUSED[name]
    (tmp_path / "table.csv").write_bytes(content)

    with pytest.raises(EngineError, match=words):
        read_table(str(tmp_path / "table.csv"), "train")


def test_cells_may_stay_the_texts_that_they_are(tmp_path):
    """Answers may be numbers, dates, truth values or words that mean nothing elsewhere."""
    answers = ["007", "2020-01-01", "true", "NA", "1.50", ""]
    (tmp_path / "t.csv").write_text("q,a\n" + "".join(f"x,{each}\n" for each in answers))

    assert read_table(str(tmp_path / "t.csv"), "train", texts=True)["a"] == answers


READ = {
    "a cell that spans lines": ('x,y\n1,"a\n""b"", c"\n', {"x": [1], "y": ['a\n"b", c']}),
    "marks within cells": ("x,y\n6\" long,5'\n", {"x": ['6" long'], "y": ["5'"]}),
    "a cell of a megabyte": (f"x,y\n1,{'q' * 3_000_000}\n", {"x": [1], "y": ["q" * 3_000_000]}),
    "a fraction after a megabyte": (
        "x\n" + "1\n" * 600_000 + "1.5\n",
        {"x": [1.0] * 600_000 + [1.5]},
    ),
    "a word after a megabyte": (
        "x,y\n" + ",1\n" * 400_000 + "a,1\n",
        {"x": [""] * 400_000 + ["a"], "y": [1] * 400_001},
    ),
    "one cell with a comma": ("x;n\n1.5;3,4\n2.5;b\n", {"x": [1.5, 2.5], "n": ["3,4", "b"]}),
    "points between thousands": ("x;n\n1.234,5;1\n2,5;2\n", {"x": [1234.5, 2.5], "n": [1, 2]}),
    "gaps among decimal commas": (
        "x;n\n1,5;1\n;2\n-2;3\n",
        {"x": [1.5, None, -2.0], "n": [1, 2, 3]},
    ),
    "commas in a heading of tabs": (
        "name, whole\tage\ty\nA, B\t3\tq\n",
        {"name, whole": ["A, B"], "age": [3], "y": ["q"]},
    ),
    "semicolons in a quoted heading": ('"a;b;c",y\n1,2\n', {"a;b;c": [1], "y": [2]}),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_written_is_what_is_read(name, tmp_path):
    """Numbers of one file are read alike, wherever they stand in it."""
    content, wanted = READ[name]
    (tmp_path / "t.csv").write_text(content)

    assert read_table(str(tmp_path / "t.csv"), "train") == wanted


def test_many_columns_are_read(tmp_path):
    """Thousands of genes are columns, and comparing each name with each would take a minute."""
    names = [f"gene {place}" for place in range(30_000)]
    (tmp_path / "t.csv").write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")

    assert list(read_table(str(tmp_path / "t.csv"), "train")) == names


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_npz_are_times_in_any_unit(unit, tmp_path):
    """Numpy hands out those in nanoseconds as whole numbers."""
    when = np.array(["2024-01-01T12:00", "NaT"], dtype=f"M8[{unit}]")
    (tmp_path / "t.npz").write_bytes(npz(at=when, took=when - when[0]))

    found = read_table(str(tmp_path / "t.npz"), "train")

    assert found["at"] == [datetime.datetime(2024, 1, 1, 12), None]
    assert found["took"] == [datetime.timedelta(0), None]


def test_columns_may_stay_as_they_are_written(tmp_path):
    """Names of rows are no numbers: 007 is not 7, and two long ones are not one."""
    (tmp_path / "t.csv").write_text(
        "id,x\n007,1\n184467440737095516150,2\n184467440737095516151,3\n"
    )

    found = read_table(str(tmp_path / "t.csv"), "train", texts={"id", "absent"})

    assert found == {
        "id": ["007", "184467440737095516150", "184467440737095516151"],
        "x": [1, 2, 3],
    }


def problem(folder, **arguments):
    return build_problem(
        validate_recipe(
            {
                "name": "own",
                "problem": "table",
                "arguments": {"label": "y", **arguments},
                "training": {"num_steps": 4, "batch_size": 5, "threads": 1, "learning_rate": 0.1},
                "metaparameters": {"name": "weights"},
                "outer": {"update": "sign"},
                "folder": str(folder),
            },
            "the test",
        )
    )


def two_classes():
    return [(size, colour, "yes" if place % 3 else "no") for place, (size, colour, _) in
            enumerate(ROWS)]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("size,y\n1.5,yes\n2.5,no\n", "has no column 'colour'"),
        ("size,colour,y\nlarge,röd,yes\n1.5,blå,no\n", "column 'size' of the objective rows"),
        ("size,colour,y\n1.5,röd,perhaps\n2.5,blå,no\n", "label y=perhaps"),
    ],
    ids=["column", "number", "label"],
)
def test_held_out_rows_that_are_others_are_refused(tmp_path, rows, words):
    """A word where numbers were would be infinite."""
    (tmp_path / "train.csv").write_text(written(rows=two_classes()))
    (tmp_path / "held.csv").write_text(rows)

    with pytest.raises(EngineError, match=words):
        problem(tmp_path, url=str(tmp_path / "train.csv"), objective=str(tmp_path / "held.csv"))


def test_words_that_no_training_row_has_are_told(tmp_path):
    """The model reads none of them, which nobody would see."""
    (tmp_path / "train.csv").write_text(written(rows=two_classes()))
    (tmp_path / "held.csv").write_text("size,colour,y\n" + "1.5,grön,yes\n2.5,blå,no\n" * 4)

    made = problem(tmp_path, url=str(tmp_path / "train.csv"), objective=str(tmp_path / "held.csv"))

    (note,) = [each for each in made.notes if "no training row has" in each]
    assert "The column 'colour' of the objective rows has 1 words" in note
    assert "'grön'" in note


def test_times_without_a_zone_are_the_same_on_every_machine(tmp_path):
    """Summer begins in some zones and not in others, and a local clock would move the rows."""
    start = datetime.datetime(2020, 1, 1, 12)
    when = [start + datetime.timedelta(days=30 * place) for place in range(20)]
    content = parquet({"at": when, "y": [str(place % 2) for place in range(20)]})
    (tmp_path / "t.parquet").write_bytes(content)
    before, found = os.environ.get("TZ"), []
    try:
        for zone in ("UTC", "America/New_York"):
            os.environ["TZ"] = zone
            time.tzset()
            build_problem.__globals__["_build"].cache_clear()
            made = problem(tmp_path, url=str(tmp_path / "t.parquet"))
            found.append(made.data.splits["train"].inputs)
    finally:
        os.environ.pop("TZ") if before is None else os.environ.__setitem__("TZ", before)
        time.tzset()

    assert found[0].equal(found[1])


JSON = {
    "lines": '{"size": 1.5, "y": "yes"}\n{"size": 2.5, "y": "no"}\n',
    "one list": '[{"size": 1.5, "y": "yes"}, {"size": 2.5, "y": "no"}]',
    "lists in lines": '["size", "y"]\n[1.5, "yes"]\n',
    "over several lines": '[\n  {"size": 1.5, "y": "yes"},\n  {"size": 2.5, "y": "no"}\n]\n',
    "one record": '{\n  "size": [1.5, 2.5]\n}\n',
    "columns": '\ufeff{"size": {"0": 1.5, "1": 2.5}}',
}


@pytest.mark.parametrize("name", JSON)
def test_json_is_no_table(name, tmp_path):
    """It became columns called {"size": 1.5 and the like."""
    (tmp_path / "t.csv").write_text(JSON[name], encoding="utf-8")

    with pytest.raises(DataError, match=r"is JSON and no table.*read_json"):
        read_table(str(tmp_path / "t.csv"), "train")


def test_names_of_columns_may_have_brackets(tmp_path):
    """As units and intervals do."""
    (tmp_path / "t.csv").write_text("[size],{colour}\n1.5,blue\n")

    assert read_table(str(tmp_path / "t.csv"), "train") == {"[size]": [1.5], "{colour}": ["blue"]}


@pytest.mark.parametrize("said", ["sep=;\n", "sep=;\r\n", '"sep=;"\n', "SEP=;\n", "sep=;;;\n"])
def test_the_line_by_which_spreadsheets_name_the_separator_is_no_heading(said, tmp_path):
    """A heading with more commas than semicolons does not outvote it."""
    rows = "a,b,c;y\n1,5;2\n2,5;3\n"
    (tmp_path / "t.csv").write_bytes(said.encode() + rows.encode())

    assert read_table(str(tmp_path / "t.csv"), "train") == {"a,b,c": [1.5, 2.5], "y": [2, 3]}


def test_a_separator_that_is_none_of_the_known_is_refused(tmp_path):
    """It would leave one column."""
    (tmp_path / "t.csv").write_text("sep=^\na^y\n1^2\n")

    with pytest.raises(DataError, match="separated by '\\^'"):
        read_table(str(tmp_path / "t.csv"), "train")


def test_whole_numbers_that_lose_digits_are_told(caplog):
    """Beyond 2**53 not every one is a number to compute with."""
    fitted("size", [2**53, 2**60, 3])
    assert not caplog.records

    fitted("size", [1, 2**53 + 1, 2**63 - 1])

    assert "'size'" in caplog.text
    assert "9007199254740993 becomes 9007199254740992" in caplog.text
