"""Workers by configuration: what is refused, and what runs at once."""

import sys
import threading

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
