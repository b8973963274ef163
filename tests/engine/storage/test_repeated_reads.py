"""A row that was verified is verified again at every read: its file may have changed since."""

import os
import shutil

import pytest
import torch

from engine.errors import CheckpointCorruptError
from engine.storage.states import RowStore

STATE = {"params": torch.arange(40.0), "momentum": -torch.arange(40.0)}


@pytest.fixture
def rows(tmp_path):
    layout = {name: (len(row), row.dtype) for name, row in STATE.items()}
    store = RowStore.create(str(tmp_path / "rows"), layout, 3, attributes={})
    store.save(0, STATE)
    store.save(1, {name: row + 1 for name, row in STATE.items()})
    return store


def chunk(rows, step):
    return f"{rows.url}/params/c/{step}/0".removeprefix("file://")


@pytest.mark.parametrize("how", ["copied over", "replaced"])
def test_file_that_has_changed_is_found(rows, how):
    """Another row's chunk has a checksum of its own that fits, and the fingerprint does not."""
    rows.load(0)
    place = chunk(rows, 0)
    times = os.stat(place)
    if how == "copied over":
        shutil.copyfile(chunk(rows, 1), place)
    else:
        shutil.copyfile(chunk(rows, 1), place + ".new")
        os.replace(place + ".new", place)
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(CheckpointCorruptError, match="fingerprint"):
        rows.load(0)


def test_bits_that_a_disk_has_changed_fail_their_checksum(rows):
    """Nothing moves the times of such a file."""
    rows.load(0)
    times = os.stat(chunk(rows, 0))
    with open(chunk(rows, 0), "r+b") as file:
        file.write(b"x")
    os.utime(chunk(rows, 0), ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(CheckpointCorruptError, match="checksum"):
        rows.load(0)
