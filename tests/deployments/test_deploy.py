"""A real server, a real worker and ``mgd deploy``: a run that is killed goes on where it stopped.

Everything here goes through the HTTP API, as the UI does.
"""

import logging
import signal
from pathlib import Path

import pytest

from engine.recipes.files import load_recipe
from flows.cli.deploying import shipped
from flows.descent import descent
from tests.deployments.site import DEPLOY, DEPLOYMENT, SMALL, small
from tests.helpers.machine.commands import LONG, at_work, attempts
from tests.helpers.machine.servers import wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


def test_every_deployment_arrives_as_written(site):
    """The server checks job variables by the schema of the pool, whichever was named."""
    found = {each["name"]: each for each in site.api.post("/deployments/filter")}

    assert set(found) == set(shipped())
    assert {each["parameters"]["store"] for each in found.values()} == {site.store}
    assert not any(each["pull_steps"] for each in found.values())
    assert not any(each["schedules"][0]["active"] for each in found.values())

    site.call(*DEPLOY[:2], DEPLOYMENT, "--pool", "mgd-kubernetes", "--suffix", "gpu")
    gpu = site.api.get(f"/deployments/name/descent/{DEPLOYMENT}-gpu")
    site.api.delete(f"/deployments/{gpu['id']}")
    assert gpu["job_variables"]["image"] == "mgd:test"
    assert gpu["job_variables"]["gpus"] == 1


def test_deploying_again_leaves_schedules_as_they_are(site):
    """Somebody has switched one on, and a new recipe must not switch it off."""
    (schedule,) = site.api.deployment()["schedules"]
    name = f"descent/{DEPLOYMENT}"
    site.call("prefect", "deployment", "schedule", "resume", name, schedule["id"])
    try:
        site.call(*DEPLOY[:2], DEPLOYMENT, "--pool", "mgd-process")
        (after,) = site.api.deployment()["schedules"]
    finally:
        site.call("prefect", "deployment", "schedule", "pause", name, schedule["id"])

    assert after["id"] == schedule["id"]
    assert after["active"]
    assert not site.api.deployment()["pull_steps"]


def test_problem_of_ones_own_runs_where_its_file_is(site, tmp_path):
    """A worker loads the file by its folder, and only as it was when it was deployed."""
    site.call("flows.cli.app", "new", "blobs", "--folder", str(tmp_path))
    site.call(*DEPLOY[:2], str(tmp_path / "blobs.yaml"), "--pool", "mgd-process")
    made = site.api.get("/deployments/name/descent/blobs")
    start = f"/deployments/{made['id']}/create_flow_run"
    few = {"settings": ["outer.num_steps=1"]}

    run = site.api.post(start, parameters=few, state={"type": "SCHEDULED"})["id"]
    wait_for("an end", lambda: site.api.state(run) in ("Completed", "Failed", "Crashed"))
    first = site.api.state(run)
    file = tmp_path / "blobs.py"
    file.write_text(file.read_text() + "\nEDITED = True\n")
    edited = site.api.post(start, parameters=few, state={"type": "SCHEDULED"})["id"]
    wait_for("an end", lambda: site.api.state(edited) in ("Completed", "Failed", "Crashed"))
    site.api.delete(f"/deployments/{made['id']}")

    assert first == "Completed", site.api.logs(run, logging.WARNING)
    assert site.api.state(edited) == "Failed"
    assert any("blobs.py was edited" in line for line in site.api.logs(edited, logging.ERROR))


@pytest.mark.usefixtures("prefect_server")
def test_killed_run_goes_on_when_it_is_retried(site, tmp_path):
    """Retry in the UI must cost only the stage that was interrupted, and change no bit."""
    undisturbed = descent(small(seed=1), str(tmp_path))
    run = site.killed_run(small(seed=1))
    # The worker reports a crash twice; the second time would crash a run that goes on again.
    wait_for("the worker's last word", lambda: site.api.is_put_away(run))
    assert site.api.state(run) == "Crashed"
    finished = site.api.stages(run, "Completed")
    assert finished.total() >= 5  # the last ones before the kill may have had no time to say so

    site.api.retry(run)
    site.api.ends(run)

    # Task runs reach the database by events, some time after their flow run.
    wait_for("Cached", lambda: finished <= site.api.stages(run, "Cached"))
    assert set(site.api.stages(run, "Completed").values()) == {1}
    # Nothing of the first process is still "Running", and what the UI shows as progress is done.
    wait_for("an end", lambda: not site.api.task_runs(run, "Running", "Pending"))
    assert max(site.api.progress(run)) == 100.0
    assert site.record(small(seed=1)).digest == undisturbed.digest
    # A row for each outer step that was scored, and none for a stage.
    assert any("outer step" in line.lower() for line in site.api.logs(run))


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_stopped_run_has_committed_the_stage_at_work(site):
    """A cluster that takes a machine away sends SIGTERM to the flow run, as Cancel does."""
    recipe = load_recipe("digits-selection", [*SMALL, *LONG])
    run = site.api.trigger(recipe)
    key = wait_for("a stage at work", lambda: at_work(Path(site.store), "train"))

    site.kill(run, signal.SIGTERM)
    wait_for("the worker's last word", lambda: site.api.is_put_away(run))
    committed = attempts(Path(site.store))
    state = site.api.state(run)
    site.api.retry(run)
    site.api.ends(run)

    assert state == "Crashed"
    assert key in committed
    assert attempts(Path(site.store)).items() >= committed.items()
    assert any("which gets 20 s to finish" in line for line in site.api.logs(run, logging.WARNING))


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_killed_run_goes_on_by_itself(site):
    """Nobody is awake when a rented machine is taken away.

    Not on SQLite, whose server was seen to miss the crash: its database was locked.
    """
    site.call("deployments.automations", "--wait-seconds", "20")

    run = site.killed_run(small(seed=2))

    site.api.ends(run)

    assert site.api.get(f"/flow_runs/{run}")["run_count"] >= 2
    assert site.record(small(seed=2)).stages.cached >= 20


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_run_that_crashes_each_time_is_given_up(site):
    """What kills a run each time, such as too little memory, would kill it for ever."""
    site.call("deployments.automations", "--wait-seconds", "20", "--max-attempts", "2")
    run = site.killed_run(small(seed=4))
    first = site.api.get(f"/flow_runs/{run}")["infrastructure_pid"]

    def second():
        found = site.api.get(f"/flow_runs/{run}")
        return found["state"]["name"] == "Running" and found["infrastructure_pid"] != first

    wait_for("its second start", second)
    site.kill(run)
    wait_for("Crashed", lambda: site.api.state(run) == "Crashed")
    # Another run that crashes after it, for the first time, goes on: the automation has been by.
    other = site.killed_run(small(seed=5))
    wait_for("Completed", lambda: site.api.state(other) == "Completed")

    assert site.api.state(run) == "Crashed"
    assert site.api.get(f"/flow_runs/{run}")["run_count"] == 2
    assert site.api.get(f"/flow_runs/{other}")["run_count"] == 2
