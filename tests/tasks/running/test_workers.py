"""Workers by configuration: what is refused, and what runs at once."""

import os
import subprocess
import sys
import threading

import psutil
import pytest
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import ValidationError

from engine.errors import ConfigurationError
from engine.recipes.execution import WorkersSettings
from tasks.running import workers
from tasks.running.workers import Workers, open_workers


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"address": "tcp://host:8786"}, "workers.address is tcp://host:8786.*runner dask"),
        ({"num_workers": 3}, "workers.num_workers is 3.*runner dask"),
        ({"gpus_per_stage": 1}, "workers.gpus_per_stage is 1.*runner dask"),
        ({"runner": "ray", "address": "ray://host:1", "num_workers": 2}, "num_workers is 2.*own"),
    ],
    ids=["address", "number", "gpus", "both"],
)
def test_setting_that_nobody_would_read_is_refused(settings, words):
    """Who sets an address and gets one process would wait for a cluster that sees no work."""
    with pytest.raises(ValidationError, match=words):
        WorkersSettings(**settings)


@pytest.mark.parametrize(
    ("runner", "module"), [("dask", "prefect_dask.task_runners"), ("ray", "prefect_ray")]
)
def test_missing_extra_is_named_with_the_command(runner, module, monkeypatch):
    """Clusters are optional, so their packages may be absent."""
    monkeypatch.setitem(sys.modules, module, None)

    with (
        pytest.raises(ConfigurationError, match=rf"pip install .*'\.\[{runner}\]'"),
        open_workers(WorkersSettings(runner=runner)),
    ):
        pass


@pytest.mark.slow
def test_address_where_nobody_answers_is_named(monkeypatch):
    """A wrong address is a setting to correct, not a traceback of sockets."""
    pytest.importorskip("prefect_dask")
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 1)
    settings = WorkersSettings(runner="dask", address="tcp://127.0.0.1:1")

    with (
        pytest.raises(ConfigurationError, match=r"workers.address is tcp://127.0.0.1:1.*Dask"),
        open_workers(settings),
    ):
        pass


def test_chains_run_at_once_on_workers():
    """Each chain waits for the other one: called in turn, the first would wait for ever."""
    meeting = threading.Barrier(2, timeout=200)

    found = Workers(ThreadPoolTaskRunner()).together([meeting.wait, meeting.wait])

    assert sorted(found) == [0, 1]


def test_chains_run_in_turn_in_one_process():
    """There is one worker, and stages set torch's threads for the whole process."""
    order = []

    Workers().together([lambda: order.append(threading.current_thread()) for _ in range(2)])

    assert order == [threading.current_thread()] * 2


ATTACK = """
import sys
from distributed import Client
from distributed.security import Security
for kind, secret in (("tls", {}), ("tcp", {}), ("tls", {"security": Security.temporary()})):
    address = sys.argv[1].replace(sys.argv[1].partition("://")[0], kind, 1)
    try:
        with Client(address, timeout=3, **secret) as client:
            print("got in", address, client.submit(lambda: 7).result(20))
    except (OSError, TypeError, RuntimeError):
        print("held")
"""


def listening():
    """Return the addresses that this process listens at, and those that it has started."""
    own = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        each.laddr.ip for one in own for each in one.net_connections() if each.status == "LISTEN"
    }


@pytest.mark.slow
def test_nobody_else_of_the_machine_runs_code_on_the_workers_of_a_run():
    """Every user reaches its loopback address, and a scheduler runs what whoever asks hands in."""
    pytest.importorskip("prefect_dask")
    with open_workers(WorkersSettings(runner="dask", num_workers=1)) as found:
        client = found.runner.client
        address, info = client.scheduler.address, client.scheduler_info()["workers"]
        assert client.submit(os.getpid).result(200) != os.getpid()
        addresses = [address, *info, *(each["nanny"] for each in info.values())]
        told = subprocess.run(
            [sys.executable, "-c", ATTACK, address], capture_output=True, text=True, check=True
        )
        heard = listening()

    assert {each.rpartition(":")[0] for each in addresses} == {"tls://127.0.0.1"}
    assert told.stdout.split("\n")[:3] == ["held"] * 3
    assert heard == {"127.0.0.1"}


@pytest.mark.slow
def test_workers_of_dask_are_heard_and_have_loaded_what_stages_need():
    """Each of them loaded packages for eight seconds with its first stage, one after the other."""
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("prefect_dask")
    told, arrived = [], threading.Event()

    def tell():
        distributed.get_worker().log_event("steps", {"loaded": "tasks.training" in sys.modules})

    def heard(message):
        told.append(message)
        arrived.set()

    with open_workers(WorkersSettings(runner="dask", num_workers=1)) as started:
        started.hear("steps", heard)
        started.runner.client.submit(tell).result()
        arrived.wait(60)

    assert [each["loaded"] for each in told] == [True]
