"""Commits: once, by whoever still may, and never of other bits."""

import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from engine.errors import (
    CheckpointCorruptError,
    MemoryExhaustedError,
    ReplayMismatchError,
    StoreFullError,
)
from engine.recipes.files import load_recipe
from engine.recipes.settings import digest
from engine.stages import commits, lease
from engine.stages.commits import discard, find, lineage, read_rows, run_stage
from engine.stages.keys import Declaration, stage_key
from engine.stages.run import Run
from engine.storage.records import read_record, write_record

RECIPE = load_recipe("digits-selection", ["arguments.num_train=20", "training.num_steps=2"])


@pytest.fixture
def store(tmp_path):
    return str(tmp_path)


def stage(store, compute, **inputs):
    return run_stage(Declaration("some"), Run(RECIPE, store), inputs, compute)


def ones():
    return {"row": torch.ones(3)}, {"number": 1}


def folder_of(store, ref):
    return Path(store, "stages", ref.stage, ref.key)


def test_two_that_want_the_same_stage_do_it_once(store):
    """The second waits for the first, and finds what it made."""
    computed, made = [], []
    started, go_on = threading.Event(), threading.Event()

    def slow():
        computed.append(1)
        started.set()
        go_on.wait(20)
        return ones()

    threads = [threading.Thread(target=lambda: made.append(stage(store, slow))) for _ in range(2)]
    threads[0].start()
    started.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(300)

    assert len(computed) == 1
    assert made[0] == made[1]


def test_revived_owner_cannot_commit(store, monkeypatch):
    """It slept until another took over: what that one commits stays, and so do its rows."""
    monkeypatch.setattr(lease.Lease, "_renew", lambda self: None)  # asleep
    monkeypatch.setattr(lease, "TTL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "_is_over", lambda content: False)  # on another machine
    other = []

    def overtaken():
        if not other:
            other.append(None)
            other[0] = stage(store, ones)
        return ones()

    ref = stage(store, overtaken)

    assert ref == other[0]
    record = read_record(str(folder_of(store, ref) / "record.json"))
    assert record["attempt"].startswith("00000002-")
    assert find(ref.stage, ref.key, store) == ref


def test_older_owner_does_not_remove_what_a_newer_one_committed(store, monkeypatch):
    """It looked when nothing was there, slept, and would clear the way for itself."""
    real, committed = commits.acquire, []

    def late(folder, is_finished):
        if not committed:
            committed.append(None)
            committed[0] = stage(store, ones)
        return real(folder, is_finished)

    monkeypatch.setattr(commits, "acquire", late)

    ref = stage(store, lambda: pytest.fail("computed a second time"))

    assert ref == committed[0]


def test_other_bits_from_the_same_inputs_are_an_error(store, monkeypatch):
    """Unseeded randomness, or other libraries, must not be settled by who was first."""
    monkeypatch.setattr(commits, "create_record", lambda *a: False)
    monkeypatch.setattr(commits, "any_record", lambda folder: None)

    with pytest.raises(ReplayMismatchError, match="different bits from the same inputs"):
        stage(store, ones)


def test_damaged_stage_is_made_again_in_an_attempt_of_its_own(store, caplog):
    """Damage is said with its place, the record is replaced, and the rest is removed."""
    first = stage(store, ones)
    (chunk,) = folder_of(store, first).glob("attempts/*/row/c/0/0")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)

    again = stage(store, ones)

    assert again == first
    assert "is made again" in caplog.text
    assert "'row'" in caplog.text
    assert not chunk.exists()
    assert torch.equal(read_rows(store, again)["row"], torch.ones(3))


def test_discarded_stage_is_made_again_when_it_is_wanted(store):
    """A trajectory is deleted when it was used; a resumed run may want it once more."""
    first = stage(store, ones)

    discard(store, first)

    assert find(first.stage, first.key, store) is None
    assert stage(store, ones) == first


def test_stage_without_rows_is_committed_by_its_numbers(store):
    """An evaluation makes numbers alone."""
    ref = stage(store, lambda: ({}, {"loss": 0.5}))

    assert find(ref.stage, ref.key, store) == ref
    assert commits.read_scalars(store, ref) == {"loss": 0.5}


def test_full_store_is_named_with_the_way_out(store, monkeypatch):
    """Nothing unfinished counts, and the same command goes on when there is space."""

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commits.RowStore, "save", full)

    with pytest.raises(StoreFullError, match="no space left.*mgd clean"):
        stage(store, ones)
    monkeypatch.undo()
    assert stage(store, ones).stage == "some"


def test_stage_that_is_made_from_itself_ends_its_lineage(store):
    """A record can name any stage; a chain that never ends would hang whoever follows it."""
    ref = stage(store, ones)
    path = folder_of(store, ref) / "record.json"
    record = read_record(str(path))
    record["inputs"] = {"start": record["ref"]}
    del record["digest"]
    write_record(str(path), record | {"digest": digest(record)})

    with pytest.raises(CheckpointCorruptError, match="made from itself"):
        lineage(store, ref, "start")


def test_number_that_a_record_lacks_is_damage_of_the_store(store):
    """A record of another version is consistent and says other things."""
    ref = stage(store, ones)

    with pytest.raises(CheckpointCorruptError, match=r"some .* does not say 'losses'"):
        commits.read_scalars(store, ref)["losses"]
    with pytest.raises(CheckpointCorruptError, match="does not say 'segment'"):
        commits.read_inputs(store, ref)["segment"]


@pytest.mark.parametrize("attempt", ["../../..", "00000001-zzzzzzzz", "", 3, "/etc"])
def test_attempt_of_a_record_is_a_name(attempt, store, caplog):
    """It becomes a folder that is read."""
    ref = stage(store, ones)
    path = folder_of(store, ref) / "record.json"
    record = read_record(str(path)) | {"attempt": attempt}
    del record["digest"]
    write_record(str(path), record | {"digest": digest(record)})

    assert find(ref.stage, ref.key, store) is None
    assert "is made again" in caplog.text


def test_memory_that_runs_out_is_told_with_a_remedy(store):
    """Torch has an error of its own for devices only."""

    def too_large():
        return {"row": torch.empty(2**50)}, {}

    with pytest.raises(MemoryExhaustedError, match="some .*batch_size"):
        stage(store, too_large)


class Lagging(MemoryFileSystem):
    """A store whose listings are old; what is asked for by name is there at once."""

    protocol = "lagging"
    store, pseudo_dirs, born, seconds = {}, [""], {}, 2.0
    written = Counter()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("lagging://"))

    def pipe_file(self, path, value, mode="overwrite", **options):
        """Remember when an object appeared."""
        self.written[path.split("/")[-2]] += 1
        super().pipe_file(path, value, mode=mode, **options)
        self.born.setdefault(self._strip_protocol(path), time.monotonic())

    def ls(self, path, detail=True, **options):
        """Leave out what is new."""
        old = [
            entry
            for entry in super().ls(path, detail=True, **options)
            if entry["type"] != "file"
            or time.monotonic() - self.born.get(entry["name"], 0) > self.seconds
        ]
        return old if detail else [entry["name"] for entry in old]


@pytest.mark.parametrize("flows", [1, 2])
def test_listings_that_lag_neither_stop_a_commit_nor_make_it_spin(flows):
    """An attempt could not see its own lease: it computed again and again, 700 writes a second."""
    fsspec.register_implementation("lagging", Lagging, clobber=True)
    Lagging.written.clear()
    place, computed, made = f"lagging://{uuid.uuid4().hex}", [], []

    def slow():
        computed.append(1)
        time.sleep(0.3)
        return ones()

    threads = [
        threading.Thread(target=lambda: made.append(stage(place, slow)), daemon=True)
        for _ in range(flows)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)

    assert len(made) == flows
    assert len(set(made)) == 1
    assert len(computed) == 1
    assert Lagging.written["leases"] <= 8
    assert find(made[0].stage, made[0].key, place) == made[0]  # while listings lag still


@pytest.mark.parametrize("link", ["some", "some/{key}", "some/{key}/leases", "some/{key}/attempts"])
def test_nothing_is_written_through_a_link_of_a_store(link, store, tmp_path_factory):
    """Whoever put it there would have files of this user's written anywhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    key = stage_key(Declaration("some"), Run(RECIPE, store), {})
    place = Path(store, "stages", link.format(key=key))
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)

    with pytest.raises(CheckpointCorruptError, match="is a link to another place"):
        stage(store, ones)

    assert list(elsewhere.iterdir()) == []
    place.unlink()
    assert stage(store, ones) is not None


def test_a_store_may_be_a_link_and_lie_on_another_disk(store, tmp_path_factory):
    """Whoever made the store chose where."""
    disk = tmp_path_factory.mktemp("disk")
    Path(store, "stages").symlink_to(disk)
    linked = disk / "store"
    linked.symlink_to(store)

    made = stage(str(linked), ones)

    assert find(made.stage, made.key, store) == made


def test_a_commit_takes_attempts_away_that_are_older_and_no_others(store):
    """A newer one may be at work, and what is no attempt is nobody's."""
    stage(store, ones)
    (folder,) = Path(store, "stages", "some").iterdir()
    attempts = folder / "attempts"
    (attempts / "00000009-cafecafe").mkdir()
    (attempts / "notes").mkdir()
    (attempts / "00000000-deadbeef").mkdir()
    (folder / "record.json").unlink()

    stage(store, ones)

    kept = {path.name.partition("-")[0] for path in attempts.iterdir()}
    assert kept == {"00000002", "00000009", "notes"}


def test_rows_of_the_attempt_that_was_committed_stay(store, monkeypatch):
    """Of two with the same bits the older may be faster than the newer one's commit."""
    first = stage(store, ones)
    (folder,) = Path(store, "stages", "some").iterdir()
    record = read_record(str(folder / "record.json"))
    (folder / "record.json").unlink()
    created = commits.create_record

    def late(url, content):
        if url.endswith("record.json"):
            write_record(url, record)  # somebody older was faster
        return created(url, content)

    monkeypatch.setattr(commits, "create_record", late)

    assert stage(store, ones) == first

    monkeypatch.undo()
    assert find(first.stage, first.key, store) == first
    assert torch.equal(read_rows(store, first)["row"], torch.ones(3))
