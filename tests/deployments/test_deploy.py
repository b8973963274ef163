"""A real server, a real worker and ``prefect.yaml``: a run that is killed goes on where it stopped.

Everything here goes through the HTTP API, as the UI does.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml

from deployments import make
from engine.recipes import load_recipe
from engine.runs import read_run, run_name
from flows.descent import descent
from tests.flows.test_resume import LONG, at_work, attempts
from tests.servers import PrefectServer, postgresql, process, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DEPLOYMENT = "digits-selection-process"
# Long enough to be killed in the middle; each route of a test has a run of its own.
SMALL = [
    "baselines=[]",
    "data.num_train=60",
    "data.num_objective=40",
    "data.num_validation=40",
    "data.num_test=50",
    "model.width=8",
    "model.depth=1",
    "training.num_steps=12",
    "training.batch_size=10",
    "outer.num_steps=12",
    "replay.steps_per_segment=5",
]
CONTENT = yaml.safe_load(make.PREFECT_YAML.read_text())
STAGES = ("initial", "train[", "seed[", "reverse[", "evaluate[", "update[")
DEPLOY = ("prefect", "--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all")
DATABASES = ["sqlite", "postgresql"]


class Api:
    """The few requests that the UI makes."""

    def __init__(self, url):
        self.url, self._http = url, httpx.Client(base_url=url, timeout=30)

    def get(self, path):
        """Return what the server has."""
        return self._http.get(path).raise_for_status().json()

    def post(self, path, **content):
        """Send something, or ask for more than fits in an address."""
        return self._http.post(path, json=content).raise_for_status().json()

    def trigger(self, recipe):
        """Run the deployment with other settings; the store stays that of the deployment."""
        deployment = self.get(f"/deployments/name/descent/{DEPLOYMENT}")
        parameters = {"recipe": recipe.model_dump(mode="json")}
        path = f"/deployments/{deployment['id']}/create_flow_run"
        return self.post(path, parameters=parameters, state={"type": "SCHEDULED"})["id"]

    def state(self, run):
        """Return the name of a flow run's state."""
        return self.get(f"/flow_runs/{run}")["state"]["name"]

    def stages(self, run, state):
        """Return the names of the stages whose task runs are in a state."""
        body = {
            "flow_runs": {"id": {"any_": [run]}},
            "task_runs": {"state": {"name": {"any_": [state]}}},
        }
        names = [each["name"] for each in self.post("/task_runs/filter", **body, limit=200)]
        return Counter(name for name in names if name.startswith(STAGES))

    def is_put_away(self, run):
        """Say whether the worker has done with the process of a flow run."""
        name, resource = "prefect.worker.executed-flow-run", f"prefect.flow-run.{run}"
        filters = {"event": {"name": [name]}, "any_resource": {"id": [resource]}}
        return bool(self.post("/events/filter", filter=filters)["events"])


class Site:
    """A server with its worker, its deployments and their store."""

    def __init__(self, api, store, call):
        self.api, self.store, self.call = api, store, call

    def killed_run(self, recipe):
        """Start a run and kill its process in the middle: after 20 of its 89 stages, or a few more.

        The store is asked, because task runs reach the database some time after they have ended.
        """
        before = self.committed()
        run = self.api.trigger(recipe)
        wait_for("twenty stages", lambda: self.committed() >= before + 20, 300)
        os.kill(int(self.api.get(f"/flow_runs/{run}")["infrastructure_pid"]), signal.SIGKILL)
        return run

    def committed(self):
        """Count the stages that are finished, of all runs."""
        return sum(1 for _ in Path(self.store).glob("stages/*/*/record.json"))

    def record(self, recipe):
        """Return what a run left in the store."""
        return read_run(self.store, run_name(recipe))


def small(seed):
    return load_recipe("digits-selection", [*SMALL, f"training.seed={seed}"])


@pytest.fixture(scope="module", params=DATABASES)
def site(request, tmp_path_factory):
    """Start everything as ``deployments/README.md`` says, on free ports and in an empty folder."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        on_postgresql = request.param == "postgresql"
        database = stack.enter_context(postgresql(folder)) if on_postgresql else None
        server = PrefectServer(folder, database)
        store = folder / "store"
        server.environment |= {
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
            "MGD_STORE": str(store),
            "MGD_IMAGE": "mgd:test",
        }
        stack.enter_context(server)
        api = Api(server.url)

        def call(*command):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                env=server.environment, cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr

        call("deployments.pools")
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "mgd-process"]
        log = folder / "worker.log"
        stack.enter_context(process(log, *worker, env=server.environment))
        call(*DEPLOY)
        yield Site(api, str(store), call)


def test_every_deployment_arrives_as_written(site):
    """The server checks job variables by the pool's schema, and fills in what was a template."""
    found = {each["name"]: each for each in site.api.post("/deployments/filter")}

    assert set(found) == {each["name"] for each in CONTENT["deployments"]}
    assert {each["parameters"]["store"] for each in found.values()} == {site.store}
    assert {each["job_variables"].get("image") for each in found.values()} == {None, "mgd:test"}
    assert not any(each["pull_steps"] for each in found.values())
    assert not any(each["schedules"][0]["active"] for each in found.values())


@pytest.mark.usefixtures("prefect_server")
def test_killed_run_goes_on_when_it_is_retried(site, tmp_path):
    """Retry in the UI must cost only the stage that was interrupted, and change no bit."""
    undisturbed = descent(small(seed=1), str(tmp_path))
    run = site.killed_run(small(seed=1))
    # The worker reports a crash twice; the second time would crash a run that goes on again.
    wait_for("the worker's last word", lambda: site.api.is_put_away(run), 300)
    assert site.api.state(run) == "Crashed"
    finished = site.api.stages(run, "Completed")
    assert finished.total() >= 5  # the last ones before the kill may have had no time to say so

    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    site.api.post(f"/flow_runs/{run}/set_state", state=retry, force=True)
    wait_for("Completed", lambda: site.api.state(run) == "Completed", 300)

    # Task runs reach the database by events, some time after their flow run.
    wait_for("Cached", lambda: finished <= site.api.stages(run, "Cached"), 60)
    assert set(site.api.stages(run, "Completed").values()) == {1}
    assert site.record(small(seed=1)).digest == undisturbed.digest
    by_run = {"flow_run_id": {"any_": [run]}}
    lines = [each["message"] for each in site.api.post("/logs/filter", logs=by_run, limit=200)]
    assert any("committed" in line for line in lines)  # the engine's own, not only the tasks'


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_stopped_run_has_committed_the_stage_at_work(site):
    """A cluster that takes a machine away sends SIGTERM to the flow run, as Cancel does."""
    recipe = load_recipe("digits-selection", [*SMALL, *LONG])
    run = site.api.trigger(recipe)
    key = wait_for("a stage at work", lambda: at_work(Path(site.store), "train"), 300)

    os.kill(int(site.api.get(f"/flow_runs/{run}")["infrastructure_pid"]), signal.SIGTERM)
    wait_for("the worker's last word", lambda: site.api.is_put_away(run), 300)
    committed = attempts(Path(site.store))
    state = site.api.state(run)
    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    site.api.post(f"/flow_runs/{run}/set_state", state=retry, force=True)
    wait_for("Completed", lambda: site.api.state(run) == "Completed", 300)

    assert state == "Crashed"
    assert key in committed
    assert attempts(Path(site.store)).items() >= committed.items()
    by_run = {"flow_run_id": {"any_": [run]}}
    lines = [each["message"] for each in site.api.post("/logs/filter", logs=by_run, limit=200)]
    assert any("is at work, and gets 20 s to finish" in line for line in lines)


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_killed_run_goes_on_by_itself(site):
    """Nobody is awake when a rented machine is taken away.

    Not on SQLite, whose server was seen to miss the crash: its database was locked.
    """
    site.call("deployments.automations", "--wait-seconds", "20")

    run = site.killed_run(small(seed=2))

    wait_for("Completed", lambda: site.api.state(run) == "Completed", 300)

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

    wait_for("its second start", second, 300)
    os.kill(int(site.api.get(f"/flow_runs/{run}")["infrastructure_pid"]), signal.SIGKILL)
    wait_for("Crashed", lambda: site.api.state(run) == "Crashed", 300)
    # Another run that crashes after it, for the first time, goes on: the automation has been by.
    other = site.killed_run(small(seed=5))
    wait_for("Completed", lambda: site.api.state(other) == "Completed", 300)

    assert site.api.state(run) == "Crashed"
    assert site.api.get(f"/flow_runs/{run}")["run_count"] == 2
    assert site.api.get(f"/flow_runs/{other}")["run_count"] == 2
