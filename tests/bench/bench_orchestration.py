"""What orchestration costs: time outside of stages, memory of the client, and the run's page.

Question: does a run with stages of 20 s lose at most 2 % of its wall clock, does a stage cost at
most 0.5 s, and do 1,000 stages in one run keep memory flat and the UI usable?

Counted: everything of a flow run that is not inside a stage's body (Prefect, keys, claims, the
check of what is cached, reports). Long stages are tiny ones with a sleep before them.

Usage: ``python -m tests.bench.bench_orchestration tiny`` or ``long``; ``--database postgresql``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.helpers.machine.servers import PrefectServer, postgresql
from tests.helpers.runs.tiny_recipe import SMALL

PARTS = {"tiny": (143, 0.0), "long": (2, 20.0)}  # outer steps, seconds of sleep before a stage
STAGES = ("initial_value", "train_segment", "seed", "reverse_segment", "update", "evaluate")
CHROMIUM = [
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--window-size=1400,1000", "--timeout=30000"),
]


def resident():
    """Return the resident memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_run(part, store):
    """Run the recipe here, against the server in the environment; return what it took."""
    from engine.recipes.files import load_recipe
    from engine.stages import training as stages
    from flows.descent import descent

    num_steps, pause = PARTS[part]
    inside, memory = [], []

    def timed(body):
        def run(*arguments, **named):
            started = time.perf_counter()
            time.sleep(pause)
            result = body(*arguments, **named)
            inside.append(time.perf_counter() - started)
            memory.append(resident())
            return result

        return run

    for name in STAGES:
        stage = getattr(stages, name)
        stage.compute = timed(stage.compute)
    recipe = load_recipe(
        "digits-selection", [*SMALL, "training.threads=1", f"outer.num_steps={num_steps}"]
    )
    started = time.perf_counter()
    record = descent(recipe, store)
    wall = time.perf_counter() - started
    count = record.stages.total
    return {
        "part": part,
        "stages": count,
        "wall_seconds": round(wall, 2),
        "inside_seconds": round(sum(inside), 2),
        "overhead_seconds_per_stage": round((wall - sum(inside)) / count, 4),
        "overhead_share": round((wall - sum(inside)) / wall, 4),
        "resident_mb": {
            share: round(memory[len(memory) * share // 100 - 1]) for share in (10, 25, 50, 75, 100)
        },
    }


class Visitor(threading.Thread):
    """Asks what the run's page asks, again and again, while the run goes on.

    Args:
        url: Of the API.
    """

    def __init__(self, url):
        """See ``Contender.__init__``."""
        super().__init__(daemon=True)
        self.url, self.seconds, self.done = url, {}, threading.Event()

    def run(self):
        """Ask every five seconds until told to stop."""
        while not self.done.wait(5):
            for name, took in ask(self.url, newest(self.url)).items():
                self.seconds.setdefault(name, []).append(took)


def newest(url):
    """Return the id of the newest flow run, or None."""
    found = post(url, "/flow_runs/filter", sort="EXPECTED_START_TIME_DESC", limit=1)
    return found[0]["id"] if found else None


def ask(url, run):
    """Return how long the requests of a flow run's page take."""
    if run is None:
        return {}
    by_run = {"flow_runs": {"id": {"any_": [run]}}}
    requests = {
        "flow run": lambda: get(url, f"/flow_runs/{run}"),
        "graph": lambda: get(url, f"/flow_runs/{run}/graph-v2"),
        "page of task runs": lambda: post(url, "/task_runs/paginate", **by_run, limit=20),
        "logs": lambda: post(url, "/logs/filter", limit=200),
    }
    took = {}
    for name, request in requests.items():
        started = time.perf_counter()
        request()
        took[name] = time.perf_counter() - started
    return took


def get(url, path):
    return json.load(urllib.request.urlopen(url + path, timeout=60))


def post(url, path, **content):
    request = urllib.request.Request(
        url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=60))


def screenshot(address, file):
    """Let a browser show a page; return how long it took, start of the browser included."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        subprocess.run(
            [*CHROMIUM, f"--user-data-dir={profile}", "--virtual-time-budget=15000",
             f"--screenshot={file}", address],
            check=False, capture_output=True, timeout=180,
        )  # fmt: skip
    return time.perf_counter() - started


def main():
    """Measure one part and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--screenshot", help="PNG file of the run's page")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        sys.stdout.write(json.dumps(measure_run(options.part, options.inside)) + "\n")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        on_postgresql = options.database == "postgresql"
        database = stack.enter_context(postgresql(folder)) if on_postgresql else None
        server = PrefectServer(folder, database)
        stack.callback(server.stop)
        server.start(ui=True)
        visitor = Visitor(server.url)
        visitor.start()
        command = [sys.executable, "-m", "tests.bench.bench_orchestration", options.part]
        done = subprocess.run(
            [*command, "--inside", str(folder / "store")],
            env=server.environment | {"PREFECT_LOGGING_LEVEL": "WARNING"},
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        visitor.done.set()
        visitor.join()
        found = json.loads(done.stdout.splitlines()[-1])
        found["page_seconds_median_and_worst_during_the_run"] = {
            name: [round(statistics.median(took), 3), round(max(took), 3)]
            for name, took in visitor.seconds.items()
        }
        run = newest(server.url)
        found["page_seconds_after"] = {k: round(v, 3) for k, v in ask(server.url, run).items()}
        if options.screenshot:
            address = f"{server.url.removesuffix('/api')}/runs/flow-run/{run}"
            found["browser_seconds"] = round(screenshot(address, options.screenshot), 1)
        sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
