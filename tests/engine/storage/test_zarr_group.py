"""A group describes itself, and is refused when it is another or damaged."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import zarr

from engine.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointMissingError,
    ConfigurationError,
)
from engine.storage.states import RowStore

LAYOUT = {"params": (5, torch.float64), "exp_avg": (5, torch.float32)}


def create(url, layout=LAYOUT, num_rows=3, seed=1):
    return RowStore.create(
        str(url), layout, num_rows, attributes={"seed": seed, "rates": (0.1, 0.2)}
    )


def test_group_is_plain_zarr_that_any_reader_opens(tmp_path):
    """The numbers do not depend on this project: zarr alone shows rows, and NaN for no row."""
    vector = torch.arange(5, dtype=torch.float64)

    create(tmp_path).save(1, {"params": vector, "exp_avg": vector.float()})

    array = zarr.open_array(str(tmp_path), path="params", mode="r")
    np.testing.assert_array_equal(array[:], [[np.nan] * 5, [0, 1, 2, 3, 4], [np.nan] * 5])


def test_create_opens_a_group_with_the_same_description(tmp_path):
    """A retried stage finds its rows."""
    create(tmp_path).save(1, {"params": torch.ones(5).double(), "exp_avg": torch.ones(5)})

    store = create(tmp_path)

    assert store.steps() == [1]
    assert store.attributes == {"seed": 1, "rates": [0.1, 0.2]}
    assert (store.layout, store.num_rows) == (LAYOUT, 3)


def test_open_finds_the_description_in_the_group(tmp_path):
    """A URL and a step are all that tasks hand to each other."""
    create(tmp_path)

    store = RowStore.open(str(tmp_path))

    assert store.attributes == {"seed": 1, "rates": [0.1, 0.2]}
    assert list(store.layout.items()) == list(LAYOUT.items())


def test_create_completes_a_group_whose_creator_died(tmp_path):
    """The root comes first and the arrays later, so a crash in between leaves a part."""
    create(tmp_path)
    (tmp_path / "exp_avg" / "zarr.json").unlink()

    create(tmp_path).save(0, {"params": torch.ones(5).double(), "exp_avg": torch.ones(5)})

    assert RowStore.open(str(tmp_path)).load(0)["exp_avg"].tolist() == [1.0] * 5


@pytest.mark.parametrize("root", ["local", "memory"])
def test_concurrent_creators_make_one_group(root, tmp_path):
    """Workers that start together create the same store together."""
    url = {"local": str(tmp_path / "run"), "memory": f"memory://{tmp_path}"}[root]

    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda step: (step, create(url, num_rows=8)), range(8)))
        state = {"params": torch.ones(5).double(), "exp_avg": torch.ones(5)}
        list(threads.map(lambda pair: pair[1].save(pair[0], state), stores))

    assert RowStore.open(url).steps() == list(range(8))


def test_a_chunk_of_nan_is_written(tmp_path):
    """By default zarr leaves out chunks of the fill value; then a loss would look like NaN."""
    create(tmp_path).save(
        0, {"params": torch.full((5,), torch.nan).double(), "exp_avg": torch.zeros(5)}
    )

    assert (tmp_path / "params" / "c" / "0" / "0").stat().st_size == 5 * 8 + 4


def test_long_rows_are_split_evenly(tmp_path):
    """The last chunk is padded, so chunks of a fixed length could double what is stored."""
    create(tmp_path, {"params": ((16 << 20) + 2, torch.float32)})

    assert zarr.open_array(str(tmp_path), path="params", mode="r").chunks == (1, 5592406)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 2}, "attribute 'seed' is 1 there, and 2"),
        ({"num_rows": 4}, "3 rows, and this run 4"),
        ({"layout": {"params": (5, torch.float64)}}, "layout 'exp_avg' is .* and None"),
        ({"layout": LAYOUT | {"params": (6, torch.float64)}}, "layout 'params' is .*5.*6"),
        ({"layout": LAYOUT | {"params": (5, torch.float32)}}, "float64.*float32"),
    ],
    ids=["attribute", "rows", "vector", "length", "dtype"],
)
def test_create_refuses_the_group_of_another_trajectory(changed, difference, tmp_path):
    """States of two runs in one store would give a wrong metagradient without another sign."""
    create(tmp_path)

    with pytest.raises(CheckpointMismatchError, match=f"{difference}(.|\n)*--store"):
        create(tmp_path, **changed)


@pytest.mark.parametrize(
    ("layout", "num_rows", "reason"),
    [
        ({}, 3, "at least one row and one vector"),
        (LAYOUT, 0, "num_rows=0"),
        ({"a/b": (5, torch.float32)}, 3, "'a/b'"),
        ({"committed": (5, torch.float32)}, 3, "'committed'"),
        ({"params": (0, torch.float32)}, 3, "0 elements"),
        ({"params": (5, torch.bfloat16)}, 3, "bfloat16"),
    ],
)
def test_create_refuses_what_cannot_be_stored(layout, num_rows, reason, tmp_path):
    """Refused before a folder is made."""
    with pytest.raises(ConfigurationError, match=reason):
        create(tmp_path / "run", layout, num_rows)
    assert not (tmp_path / "run").exists()


def test_create_refuses_attributes_without_a_json_form(tmp_path):
    """NaN differs from itself, so a description with it would never match again."""
    with pytest.raises(ConfigurationError, match="no JSON form"):
        create(tmp_path, seed=float("nan"))


def test_open_refuses_an_absent_group_and_makes_no_folder(tmp_path):
    """Opening for writing makes the folder of a zarr store."""
    with pytest.raises(CheckpointMissingError, match=r"run\. Run the stage .*--store"):
        RowStore.open(str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["zarr.json", "params/zarr.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_damaged_metadata_is_named(content, file, tmp_path):
    """Garbage that zarr refuses with many exceptions is one kind of damage."""
    create(tmp_path)
    (tmp_path / file).write_bytes(content)

    with pytest.raises(CheckpointCorruptError, match=f"{tmp_path} is damaged: the description"):
        RowStore.open(str(tmp_path))


def test_array_that_contradicts_the_root_is_damage(tmp_path):
    """A flipped bit may leave valid metadata of another array."""
    create(tmp_path)
    file = tmp_path / "params" / "zarr.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps(metadata | {"shape": [3, 4]}))

    with pytest.raises(CheckpointCorruptError, match=r"'params'.*\[3, 4\].*\[3, 5\]"):
        RowStore.open(str(tmp_path))
