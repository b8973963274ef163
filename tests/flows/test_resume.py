"""A run that goes on: after a polite stop, and on another machine that knows only the store."""

import signal
import time

import pytest

from tests.helpers.machine.commands import LONG, at_work, attempts, finish, mgd, run

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


def test_stopped_run_goes_on_elsewhere_with_the_same_bits(tmp_path):
    """SIGTERM is what a spot machine gets; the next machine has the store and nothing else."""
    expected = finish(run(tmp_path / "quiet", tmp_path / "other", *LONG))
    store = tmp_path / "store"
    stopped = run(tmp_path / "first", store, *LONG)
    while not (key := at_work(store, "train")) and stopped.poll() is None:
        time.sleep(0.02)

    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=600)
    committed = attempts(store)
    resumed = finish(
        mgd(tmp_path / "second", "resume", expected["run"], "--store", f"file://{store}", "--json")
    )

    assert stopped.returncode == 128 + signal.SIGTERM
    assert "which gets 20 s to finish" in errors
    assert "Finished stages are kept; the same command goes on" in errors
    assert key in committed  # it was at work when the signal came
    assert len(committed) < resumed["stages"]["total"]
    assert resumed["digest"] == expected["digest"]
    assert resumed["stages"]["cached"] == len(committed)
    assert attempts(store).items() >= committed.items()
