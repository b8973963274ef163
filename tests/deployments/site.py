"""A server, a worker and all deployments, through the HTTP API like the UI."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from engine.applications.descent.record import read_run
from engine.recipes.files import changes_of_shipped, load_recipe
from engine.recipes.names import run_name
from tests.helpers.machine.servers import PrefectServer, postgresql, process, wait_for
from tests.helpers.runs import tiny_recipe

ROOT = Path(__file__).parents[2]
DEPLOYMENT = "digits-selection"
# Long enough to be killed in the middle; each route of a test has a run of its own.
SMALL = [*tiny_recipe.SMALL, "outer.num_steps=12"]
STAGES = ("initial", "train[", "seed[", "reverse[", "evaluate[", "update[")
DEPLOY = ("flows.cli.app", "deploy", "--all", "--pool", "mgd-process")
ENDS = {"Completed", "Failed", "Crashed", "Cancelled"}
"""States that a run does not leave by itself; see ``Api.ends`` for those that are retried."""

RETRY = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}


def small(seed, *changes):
    """Return a small run of its own for each seed."""
    return load_recipe("digits-selection", [*SMALL, f"training.seed={seed}", *changes])


def as_settings(recipe):
    """Return what a form has to say in its list of settings to make the recipe."""
    return [f"{key}={json.dumps(value)}" for key, value in changes_of_shipped(recipe).items()]


class Api:
    """The few requests that the UI makes."""

    def __init__(self, url):
        self.url, self._http = url, httpx.Client(base_url=url, timeout=120)

    def get(self, path):
        """Return what the server has."""
        return self._send("GET", path).json()

    def post(self, path, **content):
        """Send something, or ask for more than fits in an address."""
        return self._send("POST", path, content).json()

    def post_list(self, path, content):
        """Send a list."""
        return self._send("POST", path, content).json()

    def delete(self, path):
        """Delete something."""
        self._send("DELETE", path)

    def _send(self, method, path, content=None):
        """Try again while the database is locked, which SQLite's is at times."""
        only_asks = method == "GET" or path.endswith("/filter")  # so that nothing is done twice
        for attempt in range(10):
            try:
                answer = self._http.request(method, path, json=content)
            except httpx.TimeoutException:
                if not only_asks or attempt == 9:
                    raise
                continue
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or attempt == 9:
                return answer.raise_for_status()
            time.sleep(1)
        raise AssertionError("the last attempt returns or raises")

    def deployment(self):
        """Return the deployment that the tests use."""
        return self.get(f"/deployments/name/descent/{DEPLOYMENT}")

    def trigger(self, recipe, **more):
        """Run the deployment with other settings; the store stays that of the deployment."""
        parameters = {"settings": as_settings(recipe)}
        path = f"/deployments/{self.deployment()['id']}/create_flow_run"
        return self.post(path, parameters=parameters, state={"type": "SCHEDULED"}, **more)["id"]

    def state(self, run):
        """Return the name of a flow run's state."""
        return self.get(f"/flow_runs/{run}")["state"]["name"]

    def ends(self, run, state="Completed"):
        """Wait for the state in which a run is to end; in another one it will never be there."""

        def ended():
            now = self.state(run)
            assert now == state or now not in ENDS, (now, self.logs(run, logging.WARNING))
            return now == state

        wait_for(state, ended)

    def states(self, run):
        """Return the names of all states that a flow run has had, the first one first."""
        found = self.get(f"/flow_run_states/?flow_run_id={run}")
        return [each["name"] for each in sorted(found, key=lambda each: each["timestamp"])]

    def retry(self, run):
        """Press Retry."""
        self.post(f"/flow_runs/{run}/set_state", state=RETRY, force=True)

    def task_runs(self, run, *states):
        """Return the names of the task runs of a flow run that are in one of some states."""
        body = {
            "flow_runs": {"id": {"any_": [run]}},
            "task_runs": {"state": {"name": {"any_": list(states)}}},
        }
        return [each["name"] for each in self.post("/task_runs/filter", **body, limit=200)]

    def named(self, run, name):
        """Return the states of the task runs of a name."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"name": {"any_": [name]}}}
        return [each["state"]["name"] for each in self.post("/task_runs/filter", **body)]

    def stages(self, run, state):
        """Return the names of the stages whose task runs are in a state."""
        return Counter(name for name in self.task_runs(run, state) if name.startswith(STAGES))

    def logs(self, run, level=logging.INFO):
        """Return lines that the UI shows of a flow run and its task runs, the first ones first."""
        wanted = {"flow_run_id": {"any_": [run]}, "level": {"ge_": level}}
        lines = self.post("/logs/filter", logs=wanted, limit=200, sort="TIMESTAMP_ASC")
        return [each["message"] for each in lines]

    def artifacts(self, run):
        """Return the keys of a run's artifacts, each with its id."""
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        return {each["key"]: each["id"] for each in self.post("/artifacts/filter", **body)}

    def progress(self, run):
        """Return the percentages of a run's progress artifacts, the newest first."""
        body = {"artifacts": {"flow_run_id": {"any_": [run]}, "type": {"any_": ["progress"]}}}
        return [each["data"] for each in self.post("/artifacts/filter", **body)]

    def is_put_away(self, run):
        """Say whether the worker has done with the process of a flow run."""
        name, resource = "prefect.worker.executed-flow-run", f"prefect.flow-run.{run}"
        filters = {"event": {"name": [name]}, "any_resource": {"id": [resource]}}
        return bool(self.post("/events/filter", filter=filters)["events"])


class Site:
    """A server with its worker, its deployments and their store."""

    def __init__(self, api, store, call):
        self.api, self.store, self.call = api, store, call

    def killed_run(self, recipe, after=20):
        """Start a run and kill its process in the middle: after 20 of its 89 stages, or a few more.

        The store is asked, because task runs reach the database some time after they have ended.
        """
        before = self.committed()
        run = self.api.trigger(recipe)
        wait_for("some stages", lambda: self.committed() >= before + after)
        self.kill(run)
        return run

    def kill(self, run, number=signal.SIGKILL):
        """Send a signal to the process of a flow run."""
        os.kill(int(self.api.get(f"/flow_runs/{run}")["infrastructure_pid"]), number)

    def committed(self):
        """Count the stages that are finished, of all runs."""
        return sum(1 for _ in Path(self.store).glob("stages/*/*/record.json"))

    def record(self, recipe):
        """Return what a run left in the store."""
        return read_run(self.store, run_name(recipe))


@contextmanager
def open_site(folder, kind):
    """Start everything as ``deployments/README.md`` says, on free ports and in an empty folder."""
    with ExitStack() as stack:
        database = stack.enter_context(postgresql(folder)) if kind == "postgresql" else None
        server = PrefectServer(folder, database)
        store = folder / "store"
        server.environment |= {
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
            # The scheduler looks at the schedules every minute otherwise.
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
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
