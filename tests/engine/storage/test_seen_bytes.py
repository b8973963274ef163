"""A row that this process has verified is not verified again, unless its file has changed."""

import os
import shutil
import time

import pytest
import torch

from engine.errors import CheckpointCorruptError
from engine.storage import seen_bytes, states
from engine.storage.states import RowStore

STATE = {"params": torch.arange(40.0), "momentum": -torch.arange(40.0)}


@pytest.fixture
def passes(monkeypatch):
    """The vectors of which a fingerprint is made; files count as old at once."""
    seen = []
    made = states.fingerprint
    monkeypatch.setattr(states, "fingerprint", lambda row: (seen.append(len(row)), made(row))[1])
    monkeypatch.setattr(seen_bytes, "_TICK", 0)
    return seen


@pytest.fixture
def rows(tmp_path):
    layout = {name: (len(row), row.dtype) for name, row in STATE.items()}
    store = RowStore.create(str(tmp_path / "rows"), layout, 3, attributes={})
    store.save(0, STATE)
    store.save(1, {name: row + 1 for name, row in STATE.items()})
    return store


def chunk(rows, step):
    return f"{rows.url}/params/c/{step}/0".removeprefix("file://")


def test_second_read_makes_no_fingerprint(rows, passes):
    """A state is read by every stage after the one that made it."""
    first, second = rows.load(0), RowStore.open(rows.url).load(0)

    assert len(passes) == 2
    assert all(torch.equal(row, second[name]) for name, row in first.items())


def test_file_that_was_written_a_moment_ago_is_not_noted(rows, passes, monkeypatch):
    """Clocks of file systems tick every few milliseconds: it may be written again unseen."""
    monkeypatch.setattr(seen_bytes, "_TICK", 10**12)

    rows.load(0)
    rows.load(0)

    assert len(passes) == 4


def test_file_that_is_written_again_while_it_is_verified_is_not_noted(rows, passes, monkeypatch):
    """Its age counts from before it was read: a pass over many bytes takes longer than a tick."""
    tick, now, made = 10**12, time.time_ns(), states.fingerprint
    monkeypatch.setattr(seen_bytes, "_TICK", tick)

    def slow(row):
        monkeypatch.setattr(seen_bytes.time, "time_ns", lambda: now + 2 * tick)
        return made(row)

    monkeypatch.setattr(states, "fingerprint", slow)
    for _ in range(3):
        rows.load(0)

    assert len(passes) == 2 + 1  # each vector, and the first one again: the clock ran on in between


@pytest.mark.parametrize("how", ["copied over", "replaced"])
def test_file_that_has_changed_is_verified_again(rows, passes, how):
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


def test_bits_that_a_disk_has_changed_fail_their_checksum(rows, passes, monkeypatch):
    """Nothing moves the times of such a file."""
    rows.load(0)
    place = chunk(rows, 0)
    noted = seen_bytes.stamp([place])
    with open(place, "r+b") as file:
        file.write(b"x")
    monkeypatch.setattr(states, "stamp", lambda paths: noted if paths == [place] else None)

    with pytest.raises(CheckpointCorruptError, match="checksum"):
        rows.load(0)
