"""Arrays that are read a chunk at a time, of which no number is seen before its row is compared."""

import pickle

import pytest
import torch

from engine.errors import CheckpointCorruptError
from engine.storage import zarr_group
from engine.storage.location import filesystem
from engine.storage.states import RowStore

SIZE = 1000


@pytest.fixture(params=["local", "memory"])
def rows(request, tmp_path, monkeypatch):
    """Two rows of two vectors in many chunks, in each kind of filesystem."""
    monkeypatch.setattr(zarr_group, "_CHUNK_BYTES", 40)
    url = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    layout = {"params": (SIZE, torch.float32), "momentum": (SIZE, torch.float32)}
    made = RowStore.create(url, layout, 2, attributes={})
    for row in (0, 1):
        made.save(row, {name: torch.randn(SIZE) for name in layout})
    yield made
    filesystem(url)[0].rm(filesystem(url)[1], recursive=True)


def test_numbers_are_those_of_the_row_and_each_row_is_compared_once(rows, monkeypatch):
    """However many of its chunks are asked for, and at once."""
    compared, check = [], RowStore.check
    monkeypatch.setattr(
        RowStore, "check", lambda *asked: compared.append(asked[1:]) or check(*asked)
    )
    lazy = rows.arrays()

    for _ in range(2):
        for row in (0, 1):
            for name, vector in rows.load(row).items():
                assert torch.equal(torch.from_numpy(lazy[name][row]), vector)
    assert lazy["params"][:, 5:25].shape == (2, 20)
    assert sorted(compared) == [(row, name) for row in (0, 1) for name in ("momentum", "params")]


def test_only_what_is_read_is_compared(rows):
    """A row beside it may be damaged, and so may another vector."""
    files, path = filesystem(f"{rows.url}/params/c/0/3")
    files.pipe_file(path, files.cat_file(filesystem(f"{rows.url}/params/c/1/3")[1]))
    lazy = rows.arrays()

    assert lazy["params"][1, :4].tolist() == rows.load(1)["params"][:4].tolist()
    assert lazy["momentum"][0, 7] == lazy["momentum"][0][7]
    for _ in range(2):  # it is not forgotten that it is another row's
        with pytest.raises(CheckpointCorruptError, match="'params' has the fingerprint"):
            lazy["params"][0, :4]


def test_row_that_was_mended_is_read_by_the_same_array(rows):
    """A notebook need not open the run again."""
    files, path = filesystem(f"{rows.url}/params/c/0/3")
    content, lazy = files.cat_file(path), rows.arrays()["params"]
    files.rm_file(path)
    with pytest.raises(CheckpointCorruptError, match="lacks the chunk params/c/0/3"):
        lazy[0, :4]

    files.pipe_file(path, content)

    assert lazy[0, :4].tolist() == rows.load(0)["params"][:4].tolist()


def test_another_process_compares_again(rows):
    """Dask hands arrays on; what one has compared, another has not."""
    lazy = rows.arrays()["params"]
    assert lazy[0, 0] == rows.load(0)["params"][0]

    other = pickle.loads(pickle.dumps(lazy))

    files, path = filesystem(f"{rows.url}/params/c/0/3")
    files.rm_file(path)
    with pytest.raises(CheckpointCorruptError, match="lacks the chunk"):
        other[0, 0]
