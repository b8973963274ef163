"""Chunks that are written as files, beside those that zarr writes itself."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import CheckpointCorruptError
from engine.storage import zarr_group
from engine.storage.chunk_files import read_chunk, write_chunk
from engine.storage.location import filesystem
from engine.storage.states import RowStore


@pytest.mark.parametrize("elements_of_a_chunk", [7, 4, 3], ids=["one", "even", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_files_are_those_that_zarr_writes(tmp_path, monkeypatch, dtype, elements_of_a_chunk):
    """Whoever reads a store with zarr alone finds the same numbers, and so do we of zarr's."""
    size = {7: 7, 4: 8, 3: 7}[elements_of_a_chunk]
    monkeypatch.setattr(zarr_group, "_CHUNK_BYTES", elements_of_a_chunk * dtype.itemsize)
    rows = RowStore.create(str(tmp_path), {"params": (size, dtype)}, 2, attributes={})
    vector = torch.arange(size, dtype=dtype) - 2
    vector[0] = torch.nan

    rows.save(0, {"params": vector})
    rows._arrays["params"][1] = vector.numpy()

    folders = [Path(tmp_path, "params", "c", str(row)) for row in (0, 1)]
    written = [{file.name: file.read_bytes() for file in sorted(f.iterdir())} for f in folders]
    assert written[0] == written[1]
    assert len(written[0]) == -(-size // elements_of_a_chunk)
    assert rows.arrays()["params"][0].tobytes() == vector.numpy().tobytes()
    assert rows.load(0)["params"].numpy().tobytes() == vector.numpy().tobytes()


@pytest.mark.parametrize("folder", ["local", "bucket"])
def test_chunks_that_were_exchanged_are_found(folder, tmp_path, monkeypatch, request):
    """Each has a checksum that is right, and no name of its own in it."""
    if folder == "bucket":
        request.getfixturevalue("bucket")
    url = str(tmp_path) if folder == "local" else "s3://states/exchanged"
    monkeypatch.setattr(zarr_group, "_CHUNK_BYTES", 12)
    rows = RowStore.create(url, {"params": (7, torch.float32)}, 1, attributes={})
    rows.save(0, {"params": torch.arange(7.0)})
    rows.check(0, "params")
    files, path = filesystem(f"{url}/params/c/0")
    one, other = files.cat_file(f"{path}/0"), files.cat_file(f"{path}/1")

    for name, content in (("0", other), ("1", one)):
        files.pipe_file(f"{path}/{name}", content)

    for each in (lambda: rows.check(0, "params"), lambda: rows.arrays()["params"][0, :3]):
        with pytest.raises(CheckpointCorruptError, match="'params' has the fingerprint"):
            each()
    files.pipe_file(f"{path}/0", one[:-1])
    with pytest.raises(CheckpointCorruptError, match="'params' fails its checksum"):
        rows.check(0, "params")
    files.rm_file(f"{path}/0")
    for each in (lambda: rows.check(0, "params"), lambda: rows.arrays()["params"][0, :3]):
        with pytest.raises(CheckpointCorruptError, match="lacks the chunk params/c/0/0"):
            each()


def test_a_disk_that_is_full_leaves_the_chunk_that_was_there(tmp_path):
    """The last bytes that fit are written without an error, and those after them are not."""
    place, numbers = str(tmp_path / "0"), np.arange(4096.0)
    write_chunk(place, numbers)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (numbers.nbytes + 2, hard))

    try:
        with pytest.raises(OSError, match="large"):
            write_chunk(place, numbers + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert os.listdir(tmp_path) == ["0"]
    assert (read_chunk(place, len(numbers), numbers.dtype) == numbers).all()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda p: os.symlink(p, p)])
def test_what_is_no_file_is_refused_and_not_left_open(tmp_path, make):
    """Nothing is waited for, and a store full of them does not use up the files of a process."""
    place = str(tmp_path / "0")
    make(place)
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        with pytest.raises((ValueError, IsADirectoryError)):
            read_chunk(place, 3, np.dtype(np.float64))

    assert len(os.listdir("/proc/self/fd")) == before
