"""Damage to Prefect's own records of finished stages, in the store's folder ``results``."""

import json
import shutil
from pathlib import Path

import pytest

from flows.descent import descent
from tests.faults import chain
from tests.flows.test_descent import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

COARSE = ["outer.num_steps=1", "replay.steps_per_segment=12", "training.threads=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server):
    """One finished run, whose store each test copies."""
    store = tmp_path_factory.mktemp("finished")
    return store, descent(small(*COARSE), str(store))


def truncate(records):
    for path in records:
        path.write_bytes(path.read_bytes()[:-40])


def delete(records):
    for path in records:
        path.unlink()


def garble(records):
    for path in records:
        path.write_bytes(b"\x00\xff not a record")


def swap(records):
    """Give each the content of the next: whole records, of other stages."""
    contents = [path.read_bytes() for path in records]
    for path, content in zip(records, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)


def change_reference(records):
    """Change what each refers to, in a record that is whole."""
    for path in records:
        record = json.loads(path.read_text())
        result = json.loads(record["result"])
        result["data"]["content"] = "0" * 16
        path.write_text(json.dumps(record | {"result": json.dumps(result)}))


@pytest.mark.parametrize("damage", [truncate, delete, garble, swap, change_reference])
def test_damaged_records_of_prefect_are_harmless(damage, finished, tmp_path):
    """What counts is what the engine has committed; Prefect's record only says where it is."""
    intact, expected = finished
    store = tmp_path / "store"
    shutil.copytree(intact, store)
    before = chain.committed(store)
    records = sorted(path for path in Path(store, "results").iterdir() if path.is_file())
    assert len(records) == expected.stages.total

    damage(records)
    with chain.counted() as computed:
        repaired = descent(small(*COARSE), str(store))
        again = descent(small(*COARSE), str(store))

    assert computed == []
    assert chain.committed(store) == before
    assert repaired.digest == again.digest == expected.digest
    assert again.stages.cached == again.stages.total
