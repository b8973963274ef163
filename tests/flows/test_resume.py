"""A run that goes on: after a polite stop, and on another machine that knows only the store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.test_descent import SMALL

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]


def mgd(home, *arguments):
    """Start a command on a machine of its own: another home, another server, another folder."""
    home.mkdir(exist_ok=True)
    names = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = names | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(child):
    """Wait for a command that must end well, and return its JSON object."""
    output, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def run(home, store):
    options = [part for change in SMALL for part in ("--set", change)]
    return mgd(home, "run", *options, "--store", str(store), "--json")


def test_stopped_run_goes_on_elsewhere_with_the_same_bits(tmp_path):
    """SIGTERM is what a spot machine gets; the next machine has the store and nothing else."""
    expected = finish(run(tmp_path / "quiet", tmp_path / "other"))
    store = tmp_path / "store"
    stopped = run(tmp_path / "first", store)
    while len(list(store.glob("stages/*/*/record.json"))) < 4 and stopped.poll() is None:
        time.sleep(0.02)

    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=60)
    committed = len(list(store.glob("stages/*/*/record.json")))
    resumed = finish(
        mgd(tmp_path / "second", "resume", expected["run"], "--store", f"file://{store}", "--json")
    )

    assert stopped.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM" in errors
    assert resumed["digest"] == expected["digest"]
    assert resumed["stages"]["cached"] >= committed - 1  # one may lack Prefect's own record
    assert resumed["stages"]["cached"] < resumed["stages"]["total"]
