"""``mgd ui --stop``: ends those that are at work, and signals nobody else."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from typer.testing import CliRunner

from engine.errors import ConfigurationError
from flows.cli.app import app
from flows.cli.server import at_work
from flows.cli.server.at_work import Served, announce, end_all, is_alone, noted, other, turn
from tests.helpers.machine.servers import wait_for

HOLD = """
import signal, sys, time
from flows.cli.server.at_work import noted
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with noted():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Prefect's folder, of our own."""
    monkeypatch.setattr(at_work, "_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def held(home):
    """A process that is at work."""
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PYTHONPATH": str(Path(__file__).parents[4]),
    }
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.slow
def test_one_that_is_at_work_is_asked_to_end_and_waited_for(home, held):
    """As by Ctrl-C, so that it ends what it has started."""
    answer = CliRunner().invoke(app, ["ui", "--stop"])

    assert answer.exit_code == 0, answer.output
    assert f"process {held.pid}" in answer.output
    assert held.wait(60) == 128 + signal.SIGTERM
    assert list(home.glob("mgd-ui-*")) == []


@pytest.mark.slow
def test_one_that_does_not_end_is_named(home, held, monkeypatch):
    """With the command that ends it."""
    monkeypatch.setattr(at_work, "SECONDS_TO_END", 0.3)
    os.kill(held.pid, signal.SIGSTOP)
    wait_for("a halt", lambda: "T" in Path(f"/proc/{held.pid}/stat").read_text().split()[2], 30)

    answer = CliRunner().invoke(app, ["ui", "--stop"])

    assert answer.exit_code == 2
    assert f"kill -9 {held.pid}" in answer.output


def test_the_file_of_a_dead_one_signals_nobody(home, monkeypatch):
    """Its number may be a stranger's by now."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a stranger was signalled"))
    (home / at_work._name("4242")).touch()

    answer = CliRunner().invoke(app, ["ui", "--stop"])

    assert answer.exit_code == 2
    assert "No mgd ui of yours is at work" in answer.output
    assert list(home.glob("mgd-ui-*")) == []


def test_one_of_another_machine_is_left_alone(home, monkeypatch):
    """Its number is a stranger's here, although it is at work and holds its lock."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a stranger was signalled"))
    with monkeypatch.context() as there:
        there.setattr(platform, "node", lambda: "elsewhere")
        running = noted()
        running.__enter__()

    assert end_all() == {}

    running.__exit__(None, None, None)


def test_one_that_ends_before_it_is_asked_has_ended(home, monkeypatch):
    """No traceback for who was a moment late."""
    with noted() as _, monkeypatch.context() as patched:
        patched.setattr(at_work, "SECONDS_TO_END", 0.0)
        patched.setattr(os, "kill", gone)

        assert end_all() == {os.getpid(): False}  # its lock is ours, and so still held


def gone(process, sign):
    raise ProcessLookupError


@pytest.mark.slow
def test_another_one_is_found_where_it_answers_until_it_ends(home, held):
    """Two servers on one database keep each other from writing: the second command said 503."""
    served = Served(held.pid, "http://127.0.0.1:1/api", "a secret", str(home / "of-the-other"))
    assert other() is None  # it is at work, and has not said where it answers

    said = home / at_work._name(str(held.pid)).replace(".lock", ".json")
    said.write_text(json.dumps(served._asdict()))

    assert other() == served
    held.kill()
    held.wait(60)
    assert other() is None
    assert list(home.glob("mgd-ui-*")) == []


def test_where_one_answers_only_its_user_can_read(home):
    """The secret lets in whoever has it, and a process that ended takes its words with it."""
    with noted():
        announce(Served(os.getpid(), "http://127.0.0.1:1/api", "a secret", str(home / "own")))
        (said,) = home.glob("mgd-ui-*.json")
        mode = said.stat().st_mode & 0o777

    assert mode == 0o600
    assert list(home.glob("mgd-ui-*")) == []


def test_two_that_start_at_once_take_turns(home, monkeypatch):
    """Neither would see the other, and there would be two servers."""
    monkeypatch.setattr(at_work, "START_SECONDS", 0.05)

    with turn() as lock:
        with pytest.raises(ConfigurationError, match="has been starting"), turn():
            pass
        lock.release()
        with turn() as taken:
            assert taken.is_locked


@pytest.mark.slow
def test_one_is_alone_when_all_others_have_ended(home, held):
    """One that was killed leaves its file, and nobody else's runs may be closed."""
    with noted():
        assert not is_alone()
        held.kill()
        held.wait(60)
        assert is_alone()
        (home / "mgd-ui-another.machine-7.lock").touch()
        assert not is_alone()


@pytest.fixture
def held_as(home):
    """Holds the file of a name, and says in another where it answers."""
    locks = []

    def hold(name, content=None):
        locks.append(filelock.FileLock(home / f"{name}.lock"))  # one that is collected lets go
        locks[-1].acquire()
        if content is not None:
            (home / f"{name}.json").write_text(content)

    yield hold
    for lock in locks:
        lock.release()


ELSEWHERE = json.dumps(Served(4242, "http://127.0.0.1:1/api", "a secret", "/x")._asdict())


def test_one_of_a_machine_whose_name_begins_alike_is_left_alone(held_as, monkeypatch):
    """In a shared home, gpu ended a process of its own by the number of one of gpu-1."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a stranger was signalled"))
    monkeypatch.setattr(platform, "node", lambda: "gpu")
    held_as("mgd-ui-gpu-1-4242", ELSEWHERE)
    held_as("mgd-ui-gpu-x")

    assert other() is None
    assert end_all() == {}
    assert not is_alone()


PLANTED = {
    "no JSON": "{",
    "too deep": "[" * 200_000,
    "a list": "[]",
    "another type": ELSEWHERE.replace('"http://127.0.0.1:1/api"', "5"),
    "another process": ELSEWHERE.replace("4242", "4243"),
    "another machine": ELSEWHERE.replace("127.0.0.1:1", "example.org"),
    "another machine behind a name": ELSEWHERE.replace("127.0.0.1:1", "127.0.0.1:1@example.org"),
}


@pytest.mark.parametrize("content", PLANTED.values(), ids=PLANTED)
def test_what_says_nothing_of_use_is_nobody(held_as, content):
    """The next command starts a server of its own."""
    held_as(at_work._name("4242").removesuffix(".lock"), content)

    assert other() is None


@pytest.mark.parametrize("stranger", [True, False], ids=["a stranger's", "a link"])
@pytest.mark.parametrize("ending", [".json", ".lock"])
def test_what_is_no_file_of_this_user_is_nobody(home, held_as, monkeypatch, ending, stranger):
    """Whoever can write there could have the user's processes ended, and the deployments sent."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process was signalled"))
    name = at_work._name("4242").removesuffix(".lock")
    held_as(name, ELSEWHERE)
    assert other() is not None
    path = home / f"{name}{ending}"
    if stranger:
        real = at_work.Path.lstat

        def owned(file):
            found = real(file)
            return os.stat_result([*found[:4], os.getuid() + (file == path), *found[5:10]])

        monkeypatch.setattr(at_work.Path, "lstat", owned)
    else:
        path.rename(home / "elsewhere")
        path.symlink_to(home / "elsewhere")

    assert other() is None
    if ending == ".lock":
        assert end_all() == {}


def test_secret_is_written_through_no_link(home, tmp_path):
    """Beside the lock there may be anything."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    with noted():
        said = home / at_work._name(str(os.getpid())).replace(".lock", ".json")
        said.symlink_to(precious)
        announce(Served(os.getpid(), "http://127.0.0.1:1/api", "a secret", "/x"))

        assert not said.is_symlink()
        assert other() is not None
    assert precious.read_text() == "kept"
