"""Files of a data set that lead elsewhere, or fill a disk or a memory, are not read."""

import gzip
import json
import zipfile

import fsspec
import numpy
import pytest

from engine.errors import DataError
from engine.problems.saved.arrow_sizes import _contents, unpacked_bytes
from engine.problems.saved.files import on_this_machine
from engine.problems.saved.reading import ColumnRoles, DataRequest, read_splits
from engine.storage.content import BOMB_BYTES, BOMB_RATIO

datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
arrow = pytest.importorskip("pyarrow", reason="needs the extra datasets")

TEXTS = "first\nsecond\nthird\nfourth\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The library keeps copies, which are nobody's here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(source):
    splits: dict[str, str | None] = {"objective": None, "validation": None, "test": None}
    asked = DataRequest(str(source), splits, ColumnRoles(("text",), None), False, 0.3, 0, 8, 10**6)
    found, _ = read_splits(asked)
    return sorted(text for rows in found.values() for text in rows.table["text"])


@pytest.fixture
def folder(tmp_path):
    """An empty folder of a data set, beside a file that is nobody's business."""
    (tmp_path / "secret.txt").write_text("mine\n" * 9)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("how", ["file", "folder", "saved"])
def test_a_link_out_of_a_data_set_is_refused(how, folder, tmp_path):
    """A packed data set may hold a link to a file of whoever unpacks it."""
    if how == "saved":
        rows = datasets.Dataset.from_dict({"text": TEXTS.split()})
        rows.save_to_disk(str(folder))
        (file,) = folder.glob("*.arrow")
        file.rename(tmp_path / "other.arrow")
        file.symlink_to(tmp_path / "other.arrow")
    elif how == "folder":
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "train.txt").write_text(TEXTS)
        (folder / "inner").symlink_to(tmp_path / "texts")
    else:
        (folder / "train.txt").symlink_to(tmp_path / "secret.txt")

    with pytest.raises(DataError, match="is a link out of the folder"):
        read(folder)


def test_links_within_a_data_set_and_of_the_hubs_cache_are_followed(tmp_path):
    """The cache of the Hub is made of links to where it keeps each content once."""
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    (snapshot.parents[1] / "blobs" / "4567").write_text(TEXTS)
    (snapshot / "train.txt").symlink_to("../../blobs/4567")

    assert read(snapshot) == sorted(TEXTS.split())


def test_a_file_that_fills_a_disk_is_refused(folder):
    """The library unpacks what it finds into its cache, however much that is."""
    with gzip.GzipFile(folder / "train.csv.gz", "wb") as file:
        for _ in range(300):
            file.write(b"a" * 2**20)

    with pytest.raises(DataError, match=r"train\.csv\.gz unpacks to over"):
        read(folder)


def test_an_archive_that_fills_a_disk_is_refused(folder):
    """It says so itself, and nothing reads more of it than it says."""
    with (
        zipfile.ZipFile(folder / "train.zip", "w", zipfile.ZIP_DEFLATED) as made,
        made.open("train.txt", "w") as file,
    ):
        for _ in range(300):
            file.write(b"a" * 2**20)

    with pytest.raises(DataError, match=r"train\.zip unpacks to over"):
        read(folder)


def test_honest_packed_files_are_read(folder):
    """Which is how large ones are shared."""
    with gzip.open(folder / "train.csv.gz", "wt") as file:
        file.write("text\n" + TEXTS)

    assert read(folder) == sorted(TEXTS.split())


def saved(folder, column, feature):
    """Write a saved data set whose file holds what its library would not write."""
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(folder))
    (file,) = folder.glob("*.arrow")
    table = arrow.table({"text": column})
    with arrow.OSFile(str(file), "wb") as out, arrow.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    described = json.loads((folder / "dataset_info.json").read_text())
    described["features"] = {"text": feature}
    (folder / "dataset_info.json").write_text(json.dumps(described))


def test_rows_and_lists_of_nothing_are_refused(folder):
    """A billion of them take no byte of a file, and gigabytes of a memory."""
    value = {"_type": "Value", "dtype": "null"}
    saved(folder, arrow.nulls(10**9), value)
    with pytest.raises(DataError, match="The split train of .* unpacks to over"):
        read(folder)

    lists = arrow.ListArray.from_arrays(
        arrow.array([0, 0, 10**9], arrow.int32()), arrow.nulls(10**9)
    )
    saved(folder, lists, {"_type": "List", "feature": value})
    with pytest.raises(DataError, match="The column 'text' unpacks to over"):
        read(folder)


@pytest.fixture
def elsewhere(folder):
    """A saved data set on another filesystem, and its root there."""
    datasets.Dataset.from_dict({"text": TEXTS.split()}).save_to_disk(str(folder))
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/far/data", recursive=True)
    yield system
    for path in [each for each in system.store if each.startswith("/far/")]:
        del system.store[path]
    system.pseudo_dirs[:] = [each for each in system.pseudo_dirs if not each.startswith("/far")]


def test_a_saved_data_set_elsewhere_is_read(elsewhere):
    """As one of this machine is, also where its address says that it is here."""
    assert read("memory://far/data") == sorted(TEXTS.split())


def test_a_saved_data_set_elsewhere_names_no_file_of_this_machine(elsewhere, tmp_path):
    """Its library joins what the documents say to the folder of its copy."""
    state = json.loads(elsewhere.cat("/far/data/state.json"))
    state["_data_files"] = [{"filename": str(tmp_path / "data" / "x.arrow")}]
    elsewhere.pipe("/far/data/state.json", json.dumps(state).encode())

    with pytest.raises(DataError, match=r"names .* as a part of the data set"):
        read("memory://far/data")


@pytest.mark.parametrize("named", ["../outside", "a/../../outside", "a\\b", ".."])
def test_a_listing_writes_nothing_outside_of_the_copy(named, elsewhere, monkeypatch):
    """Keys of an object store, and links of a page, may hold anything."""
    monkeypatch.setattr(type(elsewhere), "find", lambda self, path, **_: [f"{path}/{named}"])
    monkeypatch.setattr(type(elsewhere), "get_file", lambda *_: pytest.fail("written"))

    with pytest.raises(DataError, match="would be written to another place"):
        on_this_machine("memory://far/data")


def test_a_saved_data_set_by_an_address_of_this_machine_is_looked_at(folder, tmp_path):
    """``file://`` is no way around what a path is asked."""
    datasets.Dataset.from_dict({"text": TEXTS.split()}).save_to_disk(str(folder))
    assert read(f"file://{folder}") == sorted(TEXTS.split())
    (folder / "more.txt").symlink_to(tmp_path / "secret.txt")

    with pytest.raises(DataError, match="is a link out of the folder"):
        read(f"file://{folder}")


def write_arrow(path, table, *, kind, packed, **more):
    """Write a table in Arrow's stream or file format."""
    from pyarrow import ipc

    options = ipc.IpcWriteOptions(compression=packed)
    new = ipc.new_stream if kind == "stream" else ipc.new_file
    with new(str(path), table.schema, options=options) as writer:
        writer.write_table(table, **more)


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("packed", ["zstd", "lz4"])
def test_packed_buffers_that_fill_a_memory_are_refused(kind, packed, folder):
    """Six kilobytes were two hundred megabytes, which the library unpacks before anybody asks."""
    zeros = arrow.array(numpy.zeros(BOMB_BYTES + 8, numpy.uint8))
    path = folder / "train.arrow"
    write_arrow(path, arrow.table({"text": zeros}), kind=kind, packed=packed)
    assert path.stat().st_size * BOMB_RATIO < BOMB_BYTES

    with pytest.raises(DataError, match="unpacks to over"):
        read(path)


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("packed", [None, "zstd", "lz4"])
@pytest.mark.parametrize("coded", [False, True])
def test_what_arrow_stores_is_counted_as_arrow_counts_it(kind, packed, coded, tmp_path):
    """Of every batch and of every dictionary, packed or not worth packing."""
    texts = arrow.array([f"text {number % 50} " * (number % 7) for number in range(999)])
    column = texts.dictionary_encode() if coded else texts
    path = tmp_path / "rows.arrow"
    table = arrow.table({"text": column, "place": list(range(999))})
    write_arrow(path, table, kind=kind, packed=packed, max_chunksize=100)

    counted = unpacked_bytes(path)

    # Each buffer is padded to eight bytes, and some are left out.
    held = table.nbytes + (9 * column.dictionary.nbytes if coded else 0)
    assert 0.5 * table.nbytes <= counted <= 1.2 * held + 64 * 11 * 8
    if packed is None:
        assert counted <= path.stat().st_size


@pytest.mark.parametrize(
    "content", [b"", b"a", b"a,b\n1,2\n", b"\xff" * 64, b"ARROW1\0\0" + b"\xff" * 40]
)
def test_what_is_nothing_of_arrows_is_not_counted(content, tmp_path):
    """Files of a folder may hold anything; what only begins as Arrow's is damaged."""
    path = tmp_path / "file"
    path.write_bytes(content)

    if content.startswith(b"ARROW1"):
        with pytest.raises(DataError, match="is damaged"):
            unpacked_bytes(path)
    else:
        assert unpacked_bytes(path) == 0


def test_a_batch_that_a_table_of_contents_names_twice_counts_twice(tmp_path):
    """A file is read by its end: a thousand names of one batch unpack it a thousand times."""
    path = tmp_path / "rows.arrow"
    table = arrow.table({"number": numpy.arange(150)})
    write_arrow(path, table, kind="file", packed=None, max_chunksize=100)
    assert unpacked_bytes(path) == 150 * 8
    with arrow.memory_map(str(path)) as stream:
        first, second = _contents(stream)

    content = path.read_bytes()
    named = second.to_bytes(8, "little")
    assert content.count(named) == 1
    path.write_bytes(content.replace(named, first.to_bytes(8, "little")))
    assert unpacked_bytes(path) == 2 * 100 * 8

    path.write_bytes(content.replace(named, (first + 8).to_bytes(8, "little")))
    with pytest.raises(DataError, match="is damaged"):
        unpacked_bytes(path)
