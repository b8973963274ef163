"""Files of a few bytes that stand for gigabytes of Python's values, and honest ones beside them."""

import io
import zipfile

import numpy as np
import pytest

from engine.errors import DataError
from engine.problems.data.bounded import open_parquet, python_size
from engine.problems.pairs.shards import read_files
from engine.problems.tables.files import read_table
from engine.recipes.arguments.pairs import ContrastiveSettings

arrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")

MANY = 40_000_000
"""Values: more than a bomb may have, and few enough to be made in a test."""

LONG = "x" * 2**20


def one_list(values):
    return arrow.ListArray.from_arrays(arrow.array([0, len(values)], arrow.int32()), values)


def repeated(number, value=LONG):
    """Texts that are stored once."""
    return arrow.array([value]).take(arrow.array(np.zeros(number, dtype=np.int32)))


BOMBS = {
    "nothing in a list": lambda: one_list(arrow.nulls(MANY)),
    "zeros in a list": lambda: one_list(arrow.array(np.zeros(MANY, dtype=np.int8))),
    "a text in a list": lambda: one_list(repeated(600)),
    "a text in records": lambda: arrow.StructArray.from_arrays([repeated(600)], ["text"]),
    "a text in a map": lambda: arrow.MapArray.from_arrays(
        arrow.array([0, 600], arrow.int32()),
        arrow.array([str(place) for place in range(600)]),
        repeated(600),
    ),
    "bytes of a fixed number": lambda: arrow.array([b"y" * 2**20] * 600, arrow.binary(2**20)),
}


def written(path, **columns):
    parquet.write_table(arrow.table(columns), path, compression="zstd")
    return path


@pytest.mark.parametrize("name", BOMBS)
def test_a_column_that_unpacks_to_gigabytes_is_refused(name, tmp_path):
    """Half a kilobyte took all memory, or minutes."""
    path = written(tmp_path / "t.parquet", a=BOMBS[name]())
    assert path.stat().st_size < 100_000

    with pytest.raises(DataError, match="unpacks to over"):
        read_table(str(path), "train")


@pytest.mark.parametrize("name", ["nothing in a list", "zeros in a list"])
def test_values_are_counted_by_what_a_file_says_of_itself(name, tmp_path):
    """Before a row is read: they take no bytes, not even unpacked, and fill a memory as values."""
    path = written(tmp_path / "t.parquet", a=BOMBS[name]())
    column = parquet.ParquetFile(path).metadata.row_group(0).column(0)
    assert column.total_uncompressed_size < 100_000

    with pytest.raises(DataError, match="unpacks to over"):
        open_parquet(arrow.BufferReader(path.read_bytes()), "The table")


@pytest.mark.parametrize("column", ["image", "caption"])
def test_pairs_of_such_a_column_are_refused(column, tmp_path):
    """Cells become values one by one, each of which is enough."""
    pytest.importorskip("PIL.Image", reason="pictures need the extra clip")
    other = {"image": "caption", "caption": "image"}[column]
    written(tmp_path / "p.parquet", **{column: one_list(repeated(600)), other: arrow.array(["a"])})

    with pytest.raises(DataError, match="unpacks to over"):
        read_files("arguments.url", str(tmp_path), ContrastiveSettings(image_size=8), keep=True)


HONEST = {
    "words": ["a", "b"] * 3000,
    "lists": [["a", None], []] * 3000,
    "records": [{"role": "user", "parts": ["hello"]}] * 6000,
    "bytes": ["ab", "cd"] * 3000,
    "gaps": [None, 1.5] * 3000,
    "decimals": [1, 2] * 3000,
}


def test_honest_columns_of_every_kind_are_read_as_they_were_written(tmp_path):
    """Repeated words are read by name, also those within lists and records."""
    columns = {name: arrow.array(values) for name, values in HONEST.items()}
    columns["bytes"] = columns["bytes"].cast(arrow.binary())
    columns["large"] = columns["words"].cast(arrow.large_string())

    found = read_table(str(written(tmp_path / "t.parquet", **columns)), "train")

    assert found == HONEST | {"large": HONEST["words"]}


def archive(descr, shape):
    """Return an npz of one array that has no bytes at all."""
    head, stream = io.BytesIO(), io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, header)
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("a.npy", head.getvalue())
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["<U0", "|S0", "|V0"])
def test_an_array_of_items_without_a_byte_is_refused(kind, tmp_path):
    """Two hundred bytes were a list of as many items as somebody had written."""
    (tmp_path / "t.npz").write_bytes(archive(kind, (10**12,)))

    with pytest.raises(DataError, match="unpacks to over"):
        read_table(str(tmp_path / "t.npz"), "train")


def test_a_heading_of_commas_alone_is_refused(tmp_path):
    """Each is a column, and takes kilobytes before a name is looked at."""
    (tmp_path / "t.csv").write_bytes(b"," * 300_000 + b"\n")

    with pytest.raises(DataError, match="300001 columns and next to nothing"):
        read_table(str(tmp_path / "t.csv"), "train")


def test_values_are_counted_before_they_are_made():
    """Views and dictionaries repeat what is stored once; so do lists that overlap."""
    word = arrow.array(["abcd"] * 10)
    coded = word.dictionary_encode()
    views = arrow.ListViewArray.from_arrays([0] * 10, [10] * 10, arrow.nulls(10))

    assert python_size(coded) == python_size(word) == 10 * (8 + 4)
    assert python_size(word.cast(arrow.string_view())) == 10 * (8 + 4)
    assert python_size(arrow.chunked_array([word, word])) == 2 * 10 * (8 + 4)
    assert python_size(views) == 10 * 8 + 100 * 8
    assert python_size(one_list(coded)) == 8 + 10 * (8 + 4)
    assert python_size(arrow.nulls(5)) == 5 * 8
