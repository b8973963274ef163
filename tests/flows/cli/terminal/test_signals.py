"""How a command ends that is asked to: what it says, its exit code, and that it can go on."""

import json
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
    ended = end_of(name, "goes_on(['digits-12ab34cd'], '/a folder', lambda run: True)")

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


OVER = """
import atexit, time
from flows.cli.terminal.one_message import one_message
def stop():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    print("stopped", flush=True)
atexit.register(stop)
with one_message(debug=False):
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_second_signal_does_not_break_off_what_ends_the_process():
    """It showed a traceback out of the server's end, which nobody then waited for."""
    ended = end_of("SIGINT", OVER)

    assert ended.stdout == "stopped\n"
    assert ended.stderr == "\nStopped by SIGTERM.\n"
    assert ended.returncode == 128 + signal.SIGTERM


FAILS = """
from flows.cli.terminal.one_message import one_message
with one_message(debug=False):
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        raise OSError("the terminal is gone")
"""


def test_what_fails_on_the_way_out_changes_no_exit_code():
    """A closed terminal ended a run with 1: what drew on it could not be taken off."""
    ended = end_of("SIGINT", FAILS)

    assert ended.returncode == 128 + signal.SIGHUP
    assert ended.stderr == "\nStopped by SIGHUP.\n"


@pytest.mark.parametrize("begun", [[], ["b-2"]])
def test_signal_names_only_runs_that_can_be_resumed(begun):
    """Ctrl-C while Prefect was loaded named a command that found no run."""
    ended = end_of("SIGINT", f"goes_on(['a-1', 'b-2'], '/a folder', {begun}.__contains__)")

    assert ended.returncode == 130
    assert ("before the run began. The same command begins it." in ended.stderr) is not bool(begun)
    assert "a-1" not in ended.stderr
    assert ("mgd resume b-2" in ended.stderr) is bool(begun)


@pytest.mark.parametrize("command", ["check", "verify", "plan", "show", "compare"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_every_command_answers_a_signal(name, command):
    """All but ``run`` died of SIGTERM without a word, and left the terminal without its cursor."""
    code = """
from flows.cli.app import app
class Finder:  # in the middle of the command's own work, at the first of these that it loads
    def find_spec(self, name, *rest):
        if name in ("flows.cli.checking", "flows.cli.comparing", "flows.cli.showing", "torch"):
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Finder())
try:
    app(["{command}", *{arguments}])
finally:
    os._exit(sys.exc_info()[1].code)
"""
    arguments = (
        [] if command in ("check", "plan", "show") else ["a", "b"][: 1 + (command == "compare")]
    )
    ended = end_of(name, code.format(name=name, command=command, arguments=arguments))

    assert ended.returncode == 128 + getattr(signal, name)
    assert ended.stderr.startswith(f"\nStopped by {'Ctrl-C' if name == 'SIGINT' else name}.")
    assert ("Nothing was kept" in ended.stderr) is (command in ("check", "verify", "plan"))


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
    assert re.search(rf"^\[.*\] Run: {command[1]}: ", errors, re.MULTILINE)
    held = [lease for lease in leases if not json.loads(lease).get("released")]
    assert held == []
    resumed = finish(
        mgd(tmp_path / "second", "resume", command[1], "--store", command[2], "--json")
    )
    assert attempts(store).items() >= committed.items()
    assert resumed["run"] == command[1]
    wait_for("nothing at work", lambda: at_work(store, "train") is None, 5)
