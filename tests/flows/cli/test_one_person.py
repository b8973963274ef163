"""What ``mgd ui`` leaves behind: no run that Prefect would count as running for ever."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Completed, Pending, Running

from engine.errors import ConfigurationError
from flows.cli import one_person
from flows.cli.deploying import DeployRequest
from flows.cli.one_person import POOL, _end_worker, close_lost
from flows.cli.server.at_work import Served
from tests.helpers.machine.servers import wait_for

KILL = """
import os, signal, subprocess, sys
run = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], start_new_session=True)
def end(*_):
    run.kill()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
run.wait()
signal.pause()
"""
STAY = """
import signal, sys, time
def end(*_):
    time.sleep(1)  # a stage is finished
    open(sys.argv[1] + ".said", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(sys.argv[1] + ".begun", "w").close()
while True:
    time.sleep(0.05)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_run_gets_its_time_although_its_worker_gives_it_none(tmp_path):
    """It was killed at once, Prefect took it to be running, and its page said that it goes on."""
    place = str(tmp_path / "run")
    worker = subprocess.Popen([sys.executable, "-c", KILL, STAY, place], start_new_session=True)
    wait_for("the run", (tmp_path / "run.begun").exists)

    _end_worker(worker)

    assert (tmp_path / "run.said").exists()
    assert worker.returncode == 0


STUCK = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.replace(sys.argv[1] + ".new", sys.argv[1] + ".begun")
while True:
    time.sleep(0.05)
"""


def at_work(process):
    """Return whether a process is there, and more than a number that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


LEAVE = KILL.replace("run.kill()", "pass")


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_run_that_does_not_end_is_ended(tmp_path, monkeypatch):
    """It waited for a server that had gone, for minutes, and the next mgd ui took no run."""
    monkeypatch.setattr(one_person, "SECONDS_TO_END", 1.0)
    place = str(tmp_path / "run")
    worker = subprocess.Popen([sys.executable, "-c", LEAVE, STUCK, place], start_new_session=True)
    wait_for("the run", (tmp_path / "run.begun").exists)
    run = int((tmp_path / "run.begun").read_text())

    _end_worker(worker)

    wait_for("its end", lambda: not at_work(run))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_runs_that_lost_their_process_are_closed_and_no_others():
    """The pool takes one run at a time, and waited for one whose machine had lost its power."""
    states = {
        "running": [Running],
        "pending": [Pending],
        "cancelling": [Running, Cancelling],
        "completed": [Completed],
    }
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("of a test of lost runs")
        made = {}
        for pool in (POOL, "another-pool"):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
            deployment = client.create_deployment(flow, f"of {pool}", work_pool_name=pool)
            for name, ways in states.items():
                run = client.create_flow_run_from_deployment(deployment, name=f"{name} in {pool}")
                for state in ways:
                    client.set_flow_run_state(run.id, state(), force=True)
                made[run.name] = run.id

        closed = close_lost(client)

        found = {name: client.read_flow_run(id_).state_type for name, id_ in made.items()}
    assert sorted(closed) == [f"{name} in {POOL}" for name in ("cancelling", "pending", "running")]
    assert {name.split()[0]: type_ for name, type_ in found.items() if POOL in name} == {
        "running": StateType.CRASHED, "pending": StateType.CRASHED,
        "cancelling": StateType.CANCELLED, "completed": StateType.COMPLETED,
    }  # fmt: skip
    assert [found[f"{name} in another-pool"] for name in states] == [
        StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.COMPLETED,
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "is_shown"), [(0o644, False), (0o640, False), (0o600, True)])
def test_the_secret_is_in_no_file_that_others_read(mode, is_shown, tmp_path, monkeypatch):
    """Logs of batch jobs are open to all, and whoever knows the secret can have code run."""
    log = tmp_path / "log"
    log.touch()
    log.chmod(mode)
    page = one_person.BrowserPage("http://127.0.0.1:1/v2/", "mgd:S3CRET", tmp_path / "open.html")
    with log.open("w") as written:
        monkeypatch.setattr(sys, "stdout", written)
        one_person._tell(page, browser=False)
        monkeypatch.undo()

    assert ("S3CRET" in log.read_text()) == is_shown
    assert "open.html" in log.read_text()  # which the user alone can read


def test_a_server_that_ends_while_another_command_joins_it_is_told_in_words(monkeypatch, tmp_path):
    """It was an unexpected error, with the number that the system gives it."""

    def refuse(*args, **kwargs):
        raise httpx.ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr(one_person, "connected", lambda server: nullcontext())
    monkeypatch.setattr(one_person, "_deploy", refuse)
    there = Served(7, "http://127.0.0.1:9/api", "a:b", str(tmp_path))

    with pytest.raises(ConfigurationError, match=r"process 7 does not answer .*`mgd ui --stop`"):
        one_person._join(there, DeployRequest([]), "store", start=False, browser=False)
