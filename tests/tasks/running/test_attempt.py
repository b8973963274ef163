"""One process carries a flow run out: what the older of two sees, and what it leaves behind."""

import time
import uuid
from types import SimpleNamespace

import pytest
from prefect.exceptions import Abort

from engine.recipes.files import load_recipe
from engine.recipes.names import run_name
from engine.storage.places import AT_WORK, run_folder
from tasks.running import attempt, stopping

RECIPE = load_recipe("digits-selection")


@pytest.fixture
def flow_run(monkeypatch):
    """A first attempt of a run of a deployment, as far as the guard looks at it."""
    run = SimpleNamespace(id=uuid.uuid4(), deployment_id=uuid.uuid4(), run_count=1)
    context = SimpleNamespace(flow_run=run, start_time=None)
    monkeypatch.setattr(attempt, "FlowRunContext", SimpleNamespace(get=lambda: context))
    monkeypatch.setattr(attempt, "get_run_logger", lambda: attempt.logger)
    for module in (attempt, stopping):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.1)
    return run


def another(store, run):
    """Let another process of a flow run begin."""
    folder = f"{run_folder(str(store), run_name(RECIPE))}/{AT_WORK}"
    return attempt.Attempt(f"{folder}/{run.id.hex}.json")


def records(store):
    return list(store.glob(f"runs/*/{AT_WORK}/*"))


def test_older_process_ends_between_two_stages(flow_run, tmp_path):
    """Both would compute side by side, on two GPUs."""
    done = []
    with attempt.one_process(RECIPE, str(tmp_path)):
        stopping.to_its_end("first", lambda: done.append("first"))
        newer = another(tmp_path, flow_run)
        time.sleep(0.2)
        with pytest.raises(Abort):
            stopping.to_its_end("second", lambda: done.append("second"))

    assert done == ["first"]
    assert newer.is_the_newest()  # the record of the other one stays


def test_older_process_ends_within_a_long_stage(flow_run, tmp_path):
    """A stage of an hour is not waited for: Prefect would let the run crash meanwhile."""
    ended = []

    def stage():
        another(tmp_path, flow_run)
        try:
            for _ in range(3000):
                time.sleep(0.01)
            ended.append("its own end")
        finally:
            ended.append("given up")

    with pytest.raises(Abort), attempt.one_process(RECIPE, str(tmp_path)):
        stopping.to_its_end("long", stage)

    assert ended == ["given up"]


def test_only_process_goes_on_and_leaves_nothing(flow_run, tmp_path):
    """A record that stays would be one for ever."""
    with attempt.one_process(RECIPE, str(tmp_path)):
        assert len(records(tmp_path)) == 1
        stopping.to_its_end("stage", lambda: time.sleep(0.5))

    assert records(tmp_path) == []


def test_process_after_a_dead_one_need_not_wait(flow_run, tmp_path):
    """A machine that is lost leaves its name; whoever comes next writes another."""
    another(tmp_path, flow_run)

    with attempt.one_process(RECIPE, str(tmp_path)):
        time.sleep(0.2)
        attempt.go_on()


def test_two_flow_runs_of_one_recipe_do_not_stop_each_other(flow_run, tmp_path):
    """They share stages, and each has somebody who waits for it."""
    with attempt.one_process(RECIPE, str(tmp_path)):
        another(tmp_path, SimpleNamespace(id=uuid.uuid4()))
        time.sleep(0.2)
        attempt.go_on()


def test_store_that_is_away_ends_nobody(flow_run, tmp_path, monkeypatch):
    """Stages have patience with a store; what looks after them must have it too."""

    def away(url):
        raise OSError("the store does not answer")

    with attempt.one_process(RECIPE, str(tmp_path)):
        monkeypatch.setattr(attempt, "read_record", away)
        time.sleep(0.2)
        attempt.go_on()


def test_run_of_a_command_is_not_guarded(flow_run, tmp_path):
    """Nobody else starts it, so nothing is written for it."""
    flow_run.deployment_id = None

    with attempt.one_process(RECIPE, str(tmp_path)):
        attempt.go_on()

    assert not list(tmp_path.iterdir())
