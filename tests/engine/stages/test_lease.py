"""Leases: one owner at a time, whatever dies, and nobody commits after somebody else took over."""

import os
import subprocess
import sys
import threading

import pytest

from engine.stages import lease
from engine.stages.lease import Lease, acquire, newest_token
from engine.storage.records import create_record, read_record, write_record

STORES = ["local", "memory", "s3"]


@pytest.fixture(params=STORES)
def folder(request, tmp_path):
    """Where a stage would be, on each kind of store."""
    if request.param == "local":
        return str(tmp_path / "stage")
    root = request.getfixturevalue("bucket") if request.param == "s3" else "memory://leases"
    return f"{root}/{tmp_path.name}"


@pytest.fixture
def impatient(monkeypatch):
    """Owners are given up after a moment."""
    monkeypatch.setattr(lease, "TTL_SECONDS", 0.3)
    monkeypatch.setattr(lease, "_LONGEST_PAUSE", 0.1)


def never():
    return False


def foreign(url):
    """Make a lease look like that of another machine."""
    content = read_record(url)
    write_record(url, {**content, "owner": {**content["owner"], "machine": "another"}})


def test_lease_that_is_given_up_is_taken_at_once(folder):
    """A failed attempt must not make the next one wait."""
    first = acquire(folder, never)
    with first:
        assert first.is_newest()

    second = acquire(folder, never)

    assert (first.token, second.token) == (1, 2)
    assert not first.is_newest()


def test_lease_of_a_process_that_ends_before_its_block_begins_is_given_up(tmp_path):
    """As where a signal comes right after the file of the lease was written."""
    folder = str(tmp_path / "stage")
    code = (
        "import sys\nfrom engine.stages.lease import acquire\n"
        f"held = acquire({folder!r}, lambda: False)\nsys.exit(130)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False)

    assert ended.returncode == 130
    assert read_record(lease._lease_url(folder, 1))["released"] is True


def test_one_of_many_who_try_at_once_gets_the_lease(tmp_path):
    """A draw would compute the stage twice, or not at all."""
    start, owners = threading.Barrier(8), []

    def race():
        start.wait()
        owners.append(create_record(str(tmp_path / "record.json"), {"content": 1}))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(owners) == [False] * 7 + [True]


def test_who_waits_is_told_that_the_stage_is_finished(folder):
    """The owner has done the work; doing it again is what the lease is there to spare."""
    asked = []
    with acquire(folder, never):
        found = acquire(folder, lambda: bool(asked.append(1) or len(asked) > 2))

    assert found is None
    assert len(asked) == 3


@pytest.mark.slow
def test_living_owner_is_not_given_up(folder, impatient):
    """A stage may take hours; renewals say that its owner is alive."""
    waited = []

    def give_up():
        waited.append(1)
        return len(waited) > 12  # by then far more than the time after which it would be dead

    with acquire(folder, never) as held:
        found = acquire(folder, give_up)
        assert held.is_newest()

    assert found is None


def test_silent_owner_of_another_machine_is_given_up(folder, impatient):
    """Its machine is gone, so nobody will ever give the lease up; and it cannot commit any more."""
    lost = acquire(folder, never)
    foreign(f"{folder}/leases/00000001.json")

    taken = acquire(folder, never)

    assert taken.token == 2
    assert not lost.is_newest()


@pytest.mark.skipif(sys.platform != "linux", reason="Processes are looked up in /proc.")
def test_killed_owner_of_this_machine_is_given_up_at_once(tmp_path):
    """A run that is started again after SIGKILL must not wait for half a minute."""
    code = (
        "import os, signal; from engine.stages.lease import acquire;"
        f"acquire({str(tmp_path)!r}, lambda: False);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)

    taken = acquire(str(tmp_path), lambda: pytest.fail("waits for a dead process"))

    assert killed.returncode == -9
    assert taken.token == 2


def test_owner_whose_stage_was_deleted_is_not_the_owner_of_the_next_first_attempt(tmp_path):
    """Tokens begin again where a clean has removed the stage; nonces do not."""
    revived = acquire(str(tmp_path), never)
    (tmp_path / "leases" / "00000001.json").unlink()

    new = acquire(str(tmp_path), never)

    assert new.token == revived.token == 1
    assert new.attempt != revived.attempt
    assert new.is_newest()
    assert not revived.is_newest()


def test_created_lease_whose_answer_was_lost_is_ones_own(tmp_path, monkeypatch):
    """The driver of an object store asks again, and is told that the file exists."""
    monkeypatch.setattr(lease, "create_record", lambda *a: create_record(*a) and False)

    assert isinstance(acquire(str(tmp_path), lambda: pytest.fail("waits for itself")), Lease)
    assert newest_token(str(tmp_path)) == 1


def test_lease_that_could_not_be_given_up_does_not_block_its_own_process(tmp_path, monkeypatch):
    """The store was away at the end of an attempt; the retry a second later must not wait."""

    def away(*arguments, **options):
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(lease, "write_record", away)
        with acquire(str(tmp_path), never):
            pass

    taken = acquire(str(tmp_path), lambda: pytest.fail("waits for a lease that has ended"))

    assert taken.token == 2


def test_token_that_no_listing_shows_is_stepped_over(tmp_path, monkeypatch):
    """Listings of some network filesystems lag, by a minute."""
    folder, looks = str(tmp_path / "stage"), iter(range(9))
    with acquire(folder, never):
        pass
    monkeypatch.setattr(lease, "newest_token", lambda folder: 0)

    found = acquire(folder, lambda: next(looks) > 4)

    assert found is not None
    assert found.token == 2
