"""Dask clusters: one that has one GPU gives it to one stage at a time; the GPU is a number here."""

import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect import flow, task

from engine.recipes.execution import WorkersSettings
from tasks.running.workers import open_workers

pytestmark = [pytest.mark.usefixtures("prefect_server")]


@task
def meet(folder: str, name: str, patience: float) -> bool:
    """Stand in for a stage: say whether another one was at work at the same time."""
    mine = Path(folder, name)
    mine.touch()
    end = time.monotonic() + patience
    met = False
    while not met and time.monotonic() < end:
        met = len(list(Path(folder).iterdir())) == 2
        time.sleep(0.02)
    time.sleep(0.1)  # so that the other one sees it too
    mine.unlink()
    return met


@flow
def two_stages(settings, folder, patience):
    """Hand in two stages at once; return for each whether it met the other."""
    with open_workers(settings) as workers:
        handed_in = [
            workers.submit(meet, {"folder": folder, "name": name, "patience": patience})
            for name in ("one", "other")
        ]
        return [each.result() for each in handed_in]


@contextmanager
def dask():
    """A cluster of one worker with two threads and one GPU."""
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("prefect_dask")
    options = {"processes": False, "dashboard_address": None, "silence_logs": "ERROR"}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, resources={"GPU": 1}, **options
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_stages_that_claim_the_only_gpu_never_overlap(tmp_path):
    """Two stages on one GPU run out of its memory; without a claim they do overlap here."""
    stages = tmp_path / "stages"
    stages.mkdir()
    with dask() as address:
        settings = WorkersSettings(runner="dask", address=address, gpus_per_stage=1)
        claimed = two_stages(settings, str(stages), 1.0)
        free = settings.model_copy(update={"gpus_per_stage": 0})
        unclaimed = two_stages(free, str(stages), 60.0)

    assert claimed == [False, False]
    assert unclaimed == [True, True]


@pytest.mark.slow
def test_workers_of_our_own_keep_dasks_log_to_themselves(tmp_path, capfd):
    """Each said a page about its connections, when it began and when it ended."""
    pytest.importorskip("prefect_dask")
    stages = tmp_path / "stages"
    stages.mkdir()

    met = two_stages(WorkersSettings(runner="dask", num_workers=2), str(stages), 60.0)

    assert met == [True, True]
    assert "distributed" not in "".join(capfd.readouterr())
