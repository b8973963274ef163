"""What a person sees in the UI of a stage that is tried again, and of one that is not."""

import time

import pytest
from prefect.client.orchestration import get_client

from engine.errors import ConfigurationError
from engine.recipes.titles import run_title
from engine.stages import commits
from engine.stages import training as stages
from flows.descent import descent
from tasks import training
from tests.helpers.runs.tiny_recipe import COARSE, small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def history(recipe):
    """Return the names of the states, in order, that the first train stage of a run had."""
    with get_client(sync_client=True) as client:
        for _ in range(600):  # task runs reach the database by events
            flow_runs = [run for run in client.read_flow_runs() if run.name == run_title(recipe)]
            task_runs = [
                run
                for run in client.read_task_runs()
                if run.name.startswith("train[0] 0-")
                and run.flow_run_id in {each.id for each in flow_runs}
            ]
            if task_runs and all(run.state and run.state.is_final() for run in task_runs):
                break
            time.sleep(0.1)
        return [
            state["name"]
            for run in task_runs
            for state in client.request(
                "GET", "/task_run_states/", params={"task_run_id": str(run.id)}
            ).json()
        ]


def test_store_that_times_out_is_waited_for_and_the_run_completes(tmp_path, monkeypatch):
    """An object store has bad minutes; the UI says that the stage waits for one to pass."""
    recipe = small(*COARSE, "name=store-times-out")
    quiet = descent(recipe, str(tmp_path / "quiet"))
    read, left = commits.read_bytes, ["once", "twice"]

    def time_out(url):
        if "stages/train" in url and left:
            left.pop()
            raise TimeoutError("The server did not answer.")
        return read(url)

    monkeypatch.setattr(commits, "read_bytes", time_out)
    monkeypatch.setattr(training.train_segment, "retry_delay_seconds", [0.1, 0.1])

    record = descent(recipe.model_copy(update={"name": "store-answers"}), str(tmp_path / "store"))

    assert left == []
    assert record.digest == quiet.digest
    assert record.stages.retried == 1
    found = history(record.recipe)
    assert found.count("AwaitingRetry") == 2
    assert found[-1] == "Completed"


def test_wrong_setting_fails_at_once(tmp_path, monkeypatch):
    """It would be as wrong two minutes later."""
    recipe, tried = small(*COARSE, "name=wrong-setting"), []

    def refuse(*arguments, **named):
        tried.append(arguments)
        raise ConfigurationError("arguments.model.width is 8: use another.")

    monkeypatch.setattr(stages.train_segment, "compute", refuse)

    with pytest.raises(ConfigurationError, match="use another"):
        descent(recipe, str(tmp_path))

    assert len(tried) == 1
    found = history(recipe)
    assert found[-1] == "Failed"
    assert "AwaitingRetry" not in found
