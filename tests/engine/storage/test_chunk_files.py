"""Chunks that are written as files, beside those that zarr writes itself."""

from pathlib import Path

import pytest
import torch

from engine.storage import zarr_group
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
