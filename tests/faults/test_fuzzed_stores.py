"""Whatever is in a store, every command ends with a result or with one message."""

import resource

import pytest

from tests.faults import fuzzed_stores, store_reads
from tests.faults.small_store import finished_store


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished store, and the name of its run."""
    folder = tmp_path_factory.mktemp("base") / "store"
    return folder, finished_store(folder)


@pytest.mark.slow
def test_damaged_stores_are_read_without_a_traceback(base):
    """A sample of the list below, which nobody has to ask for."""
    count = fuzzed_stores.fuzz(*base, number=300, seed=20)

    assert not count.faults
    assert count.reads >= 300
    assert count.errors
    assert count.results


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_ten_thousand_reads_of_damaged_stores(base):
    """One traceback in thousands is still one that somebody will meet."""
    count = fuzzed_stores.fuzz(*base, number=10_000, seed=11)

    assert not count.faults
    assert count.reads >= 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB


@pytest.mark.slow
def test_fuzzer_finds_a_reader_that_trusts(base, monkeypatch):
    """A fuzzer that finds nothing is right only if it would find something."""
    monkeypatch.setattr(
        store_reads.runs,
        "read_run",
        lambda store, run: store_reads.stored.read_record("x")["y"],
    )

    count = fuzzed_stores.fuzz(*base, number=300, seed=20)
    monkeypatch.setattr(store_reads.lease, "newest_token", lambda folder: int("x"))
    more = fuzzed_stores.fuzz(*base, number=100, seed=20)

    assert not count.faults  # a missing record is one message
    assert any("ValueError" in fault for fault in more.faults)
