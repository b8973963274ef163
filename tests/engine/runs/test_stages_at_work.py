"""Whether somebody is at work on a stage, as its lease shows."""

import os
import threading
import time

import pytest

from engine.runs import stages_at_work as module
from engine.runs.inventory import stages_of
from engine.runs.stages_at_work import stages_at_work
from engine.stages import lease
from engine.stages.lease import Lease, acquire
from engine.stages.owner import this_process
from engine.storage.location import join
from engine.storage.records import write_bytes, write_record

STAGE = ("train", "0123456789abcdef" * 2)
ELSEWHERE = {"machine": "another", "pid": 1, "start": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Renew five times a second instead of once in five seconds."""
    monkeypatch.setattr(lease, "TTL_SECONDS", 1.2)


def folder(store):
    return join(store, "stages", *STAGE)


def at_work(store):
    return stages_at_work(store, stages_of(store, [STAGE])) == {STAGE}


def write(store, content, token=1):
    write_record(join(folder(store), "leases", f"{token:08d}.json"), content)


def content(renewed=0, **changes):
    return lease._content("0badcafe", renewed, released=False) | changes


def test_lease_of_a_process_here_is_held_until_it_is_given_up(tmp_path):
    """No renewal is waited for: the process can be asked for."""
    store = str(tmp_path)
    held = acquire(folder(store), lambda: False)
    assert isinstance(held, Lease)

    assert at_work(store)
    with held:
        assert at_work(store)
    assert not at_work(store)


def test_dead_process_of_this_machine_is_not_at_work(tmp_path, monkeypatch):
    """A run that was killed an hour ago need not be waited for."""
    dead = {**this_process().model_dump(), "pid": 2**22 - 1}
    write(str(tmp_path), content(owner=dead))

    monkeypatch.setattr(module.time, "sleep", lambda pause: pytest.fail("it was waited for"))

    assert not at_work(str(tmp_path))


def test_owner_elsewhere_is_alive_while_it_renews(tmp_path):
    """However old its files look: the clocks of two machines are not compared."""
    store, stop = str(tmp_path), threading.Event()

    def renew():
        for number in range(1000):
            write(store, content(number, owner=ELSEWHERE))
            path = f"{folder(store)}/leases/00000001.json"
            os.utime(path, (0, 0))
            if stop.wait(0.2):
                return

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        time.sleep(0.1)
        assert at_work(store)
    finally:
        stop.set()
        thread.join()
    assert not at_work(store)


def test_only_the_newest_lease_counts(tmp_path):
    """Older ones are the history: who held them was taken for dead, or has given up."""
    store = str(tmp_path)
    write(store, content())
    write(store, content(owner=ELSEWHERE, released=True), token=100_000_000)

    assert not at_work(store)


def test_owner_that_gives_up_while_it_is_watched_is_gone(tmp_path):
    """The file changes then too."""
    store = str(tmp_path)
    write(store, content(owner=ELSEWHERE))
    timer = threading.Timer(0.2, write, (store, content(1, owner=ELSEWHERE, released=True)))
    timer.start()

    assert not at_work(store)
    timer.join()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"owner": 3}', b'{"owner": null}'])
def test_damaged_lease_is_watched_like_a_foreign_one(tmp_path, damage):
    """An owner that is alive writes it again; nobody does for a dead one."""
    store = str(tmp_path)
    url = join(folder(store), "leases", "00000001.json")
    write_bytes(url, damage)
    assert not at_work(store)

    timer = threading.Timer(0.2, write, (store, content()))
    timer.start()
    assert at_work(store)
    timer.join()
