"""One process carries a flow run out: what a second one sees of the first."""

import threading
import time
import uuid
from types import SimpleNamespace

import pytest
from prefect.exceptions import Abort

from engine import lease
from engine.lease import acquire
from engine.recipes import load_recipe
from engine.runs import run_folder, run_name
from tasks import attempt

RECIPE = load_recipe("digits-selection")


@pytest.fixture
def flow_run(monkeypatch):
    """A first attempt of a run of a deployment, as far as the guard looks at it."""
    run = SimpleNamespace(id=uuid.uuid4(), deployment_id=uuid.uuid4(), run_count=1)
    context = SimpleNamespace(flow_run=run, start_time=None)
    monkeypatch.setattr(attempt, "FlowRunContext", SimpleNamespace(get=lambda: context))
    monkeypatch.setattr(attempt, "get_run_logger", lambda: attempt.logger)
    monkeypatch.setattr(lease, "TTL_SECONDS", 3.0)  # renewed every half second
    return run


def folder(store, run):
    return f"{run_folder(str(store), run_name(RECIPE))}/{attempt.FOLDER}/{run.id.hex}"


def test_second_process_ends_while_the_first_one_lives(flow_run, tmp_path):
    """Both would compute side by side to the end, on two GPUs."""
    first = acquire(folder(tmp_path, flow_run), lambda: False)
    assert first is not None

    with (
        first,
        pytest.raises(Abort, match="Another process"),
        attempt.one_process(RECIPE, str(tmp_path)),
    ):
        pytest.fail("two processes carry out one flow run")


def test_process_goes_on_after_one_that_died(flow_run, tmp_path, monkeypatch):
    """A machine that is lost gives nothing up, and its lease is never renewed."""
    monkeypatch.setattr(lease, "_this_process", lambda: {"machine": "lost", "pid": 1, "start": 1})
    assert acquire(folder(tmp_path, flow_run), lambda: False) is not None
    monkeypatch.undo()
    monkeypatch.setattr(lease, "TTL_SECONDS", 3.0)
    context = SimpleNamespace(flow_run=flow_run, start_time=None)
    monkeypatch.setattr(attempt, "FlowRunContext", SimpleNamespace(get=lambda: context))

    began = time.monotonic()
    with attempt.one_process(RECIPE, str(tmp_path)):
        waited = time.monotonic() - began

    assert 2 < waited < 30


def test_process_goes_on_after_one_that_gave_up(flow_run, tmp_path):
    """A run that was rescheduled starts on the next machine at once."""
    with attempt.one_process(RECIPE, str(tmp_path)):
        pass

    began = time.monotonic()
    with attempt.one_process(RECIPE, str(tmp_path)):
        assert time.monotonic() - began < 2

    assert not list((tmp_path / "runs").rglob("leases"))  # nothing is left behind


def test_two_flow_runs_of_one_recipe_do_not_stop_each_other(flow_run, tmp_path):
    """They share stages, and each has somebody who waits for it."""
    other = SimpleNamespace(id=uuid.uuid4())
    first = acquire(folder(tmp_path, other), lambda: False)
    assert first is not None

    with first, attempt.one_process(RECIPE, str(tmp_path)):
        pass


def test_run_of_a_command_is_not_guarded(flow_run, tmp_path):
    """Nobody else starts it, so nothing is written for it."""
    flow_run.deployment_id = None

    with attempt.one_process(RECIPE, str(tmp_path)):
        assert not list(tmp_path.iterdir())


def test_release_of_the_owner_is_no_sign_of_life(flow_run, tmp_path):
    """Who ends while another one waits leaves the run to it."""
    first = acquire(folder(tmp_path, flow_run), lambda: False)
    assert first is not None
    entered = threading.Event()
    with first:
        ends = threading.Timer(0.2, first.__exit__, (None, None, None))
        ends.start()
        with attempt.one_process(RECIPE, str(tmp_path)):
            entered.set()

    assert entered.is_set()
