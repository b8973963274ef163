"""How a command ends that is asked to: what it says, its exit code, and that it can go on."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.machine.commands import LONG, at_work, attempts, finish, mgd, run
from tests.helpers.machine.servers import wait_for

CODE = """
import os, signal, sys
from flows.cli.terminal.signals import goes_on, stop_on_signals
stop_on_signals()
{then}
os.kill(os.getpid(), signal.{name})
print("went on", flush=True)
"""


def heard():
    """Let a process hear signals although its parents, under ``nohup`` or in CI, do not."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def end_of(name, then="", **options):
    """Return how a process ends that gets a signal."""
    options = {"preexec_fn": heard} | options
    return subprocess.run(
        [sys.executable, "-c", CODE.format(name=name, then=then)],
        cwd=Path(__file__).parents[4], capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"), [("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP")]
)
def test_signal_says_what_is_kept_and_how_to_go_on(name, said):
    """Whoever presses Ctrl-C wants to know what it cost, and what to type next."""
    ended = end_of(name, "goes_on(['digits-12ab34cd'], '/a folder')")

    assert ended.returncode == 128 + getattr(signal, name)
    assert f"Stopped by {said}. Finished stages are kept" in ended.stderr
    assert "mgd resume digits-12ab34cd --store '/a folder'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


TWICE = """
try:
    os.kill(os.getpid(), signal.SIGINT)
except SystemExit:
    print("caught", flush=True)
"""


def test_second_signal_says_nothing_more():
    """Who presses Ctrl-C twice has read it, and the first one is the reason of the end."""
    ended = end_of("SIGTERM", TWICE)

    assert ended.stdout == "caught\n"
    assert ended.stderr.count("Stopped by") == 1
    assert "Stopped by Ctrl-C" in ended.stderr
    assert ended.returncode == 128 + signal.SIGINT


def test_signal_before_there_is_a_run_names_none():
    """There is nothing to resume."""
    ended = end_of("SIGINT")

    assert ended.returncode == 130
    assert "before the run began" in ended.stderr
    assert "resume" not in ended.stderr


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_signal_that_nohup_or_a_shell_ignores_stays_ignored(name):
    """A run that somebody has sent to the background must outlive the terminal."""
    number = getattr(signal, name)

    ended = end_of(name, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))

    assert ended.stdout == "went on\n"
    assert ended.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.servers
@pytest.mark.timeout(900)
def test_run_that_is_stopped_goes_on_by_the_command_that_it_names(tmp_path, number):
    """No lease stays behind that the next start would have to wait for."""
    store = tmp_path / "store"
    stopped = run(tmp_path / "first", store, *LONG)
    while not at_work(store, "train") and stopped.poll() is None:
        time.sleep(0.02)

    stopped.send_signal(number)
    output, errors = stopped.communicate(timeout=600)
    committed = attempts(store)
    command = re.search(r"mgd resume (\S+) --store (\S+)", errors)
    assert command is not None, errors
    leases = [path.read_text() for path in store.glob("stages/*/*/leases/*.json")]

    assert stopped.returncode == 128 + number
    assert output == ""
    assert "Traceback" not in errors
    assert f"Run: {command[1]}: " in errors.splitlines()[1]
    assert all('"released": true' in lease or '"released":true' in lease for lease in leases)
    resumed = finish(
        mgd(tmp_path / "second", "resume", command[1], "--store", command[2], "--json")
    )
    assert attempts(store).items() >= committed.items()
    assert resumed["run"] == command[1]
    wait_for("nothing at work", lambda: at_work(store, "train") is None, 5)
