"""Stores that say of themselves what nobody stored: sizes, codecs and chunks of any kind."""

import json
import os
import resource

import pytest
import torch

from engine.errors import CheckpointCorruptError
from engine.storage import zarr_group as group
from engine.storage.states import RowStore
from engine.storage.zarr_group import chunk_length


def hostile(folder, *, size=None, array=None, root=None, name="params"):
    """Change what a store of one row says of itself; the numbers stay."""
    description, document = (folder / "zarr.json"), folder / name / "zarr.json"
    content, own = json.loads(description.read_text()), json.loads(document.read_text())
    if size is not None:
        content["attributes"]["layout"][name]["size"] = size
        own["shape"][1] = size
        own["chunk_grid"]["configuration"]["chunk_shape"] = [1, chunk_length(size, torch.float32)]
    content["attributes"] |= root or {}
    description.write_text(json.dumps(content))
    document.write_text(json.dumps(own | (array or {})))


@pytest.fixture
def one_row(tmp_path):
    rows = RowStore.create(str(tmp_path), {"params": (5, torch.float32)}, 1, attributes={})
    rows.save(0, {"params": torch.ones(5)})
    return tmp_path


GZIP = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "gzip", "configuration": {"level": 1}},
]


@pytest.mark.parametrize(
    "change",
    [
        {"codecs": GZIP},
        {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}]},
        {"codecs": []},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}},
        {"data_type": "float64"},
        {"fill_value": 0.0},
        {"storage_transformers": [{"name": "x"}]},
        {"chunk_key_encoding": {"name": "v2"}},
        {"shape": "x"},
        {"more": 1},
    ],
    ids=str,
)
def test_array_is_what_the_engine_writes_and_nothing_else(change, one_row):
    """A codec of somebody's choice may take any time and memory, a chunk of one element too."""
    hostile(one_row, array=change)

    with pytest.raises(CheckpointCorruptError, match="description of vector 'params'"):
        RowStore.open(str(one_row))


def test_what_zarr_writes_of_an_array_is_what_is_expected_of_it(one_row):
    """Another version of zarr that writes something else must fail here, and not in a store."""
    found = json.loads((one_row / "params" / "zarr.json").read_text())

    assert group._normal(found) == group._array_document(1, 5, torch.float32)


@pytest.mark.parametrize("size", [10**10, 10**12, 2**62, 10**30, -1, 0, 1.5, "5", True, None])
def test_size_that_nobody_stored_takes_no_memory(size, one_row):
    """The size is only what the store says: 40 GB were taken for it before anything was read."""
    document = {"params": {"size": size, "dtype": "float32"}}
    if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= 2**40:
        hostile(one_row, size=size)
    else:
        hostile(one_row, root={"layout": document})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(CheckpointCorruptError):
        RowStore.open(str(one_row)).load(0)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("name", ["../x", "a/b", "committed", "", "x y", "\x1b"])
def test_vector_of_a_stored_layout_has_a_name_of_ours(name, one_row):
    """It becomes a folder that is read."""
    hostile(one_row, root={"layout": {name: {"size": 5, "dtype": "float32"}}})

    with pytest.raises(CheckpointCorruptError, match="description of the group"):
        RowStore.open(str(one_row))


@pytest.mark.parametrize("kind", ["sparse", "folder", "pipe", "zero", "loop", "short", "long"])
def test_chunk_that_is_none_is_damage(kind, one_row):
    """Neither memory nor time is lost on what lies in the place of a chunk."""
    chunk = one_row / "params" / "c" / "0" / "0"
    content = chunk.read_bytes()
    chunk.unlink()
    match kind:
        case "sparse":
            with chunk.open("wb") as file:
                file.truncate(16 << 30)
        case "folder":
            chunk.mkdir()
        case "pipe":
            os.mkfifo(chunk)
        case "zero":
            chunk.symlink_to("/dev/zero")
        case "loop":
            chunk.symlink_to(chunk)
        case "short":
            chunk.write_bytes(content[:-1])
        case "long":
            chunk.write_bytes(content + content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(CheckpointCorruptError, match="Row 0"):
        RowStore.open(str(one_row)).load(0)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10
