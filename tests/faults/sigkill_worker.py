"""Fault: a Dask or Ray worker is killed (SIGKILL) while it carries out a stage.

The cluster gives the stage to another worker, and the run must complete with the bits of a run in
one process. ``python -m tests.faults.sigkill_worker --trials 50`` prints a line for each trial and
a table row; ``--runner ray`` does so on Ray.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from engine.recipes.files import load_recipe
from tests.helpers.machine.servers import PrefectServer, free_port, wait_for

# Segments long enough to be hit.
SMALL = [
    "baselines=[]",
    "arguments.num_train=200",
    "arguments.num_objective=40",
    "arguments.num_validation=40",
    "arguments.num_test=50",
    "training.num_steps=60",
    "training.batch_size=50",
    "training.threads=1",
    "metaparameters.injection_step=20",
    "outer.num_steps=1",
    "replay.steps_per_segment=20",
]


PATIENCE = 1200
"""Longest wait for workers: so long that a busy machine cannot fail a trial."""


class Trial(NamedTuple):
    """What became of one run that lost a worker."""

    number: int
    """Of the trial."""

    killed: str
    """What the worker was doing."""

    same_bits: bool
    """Whether all references and the digest are those of a run in one process."""

    left: int
    """Trajectories that the run has left behind."""

    @property
    def holds(self):
        """Whether a busy worker was killed, and the run did not notice."""
        return bool(self.killed) and self.same_bits and self.left == 0


class Dask:
    """A scheduler and two workers, each a process of its own that nobody starts again."""

    def __init__(self, folder):
        self.folder, self.workers = folder, {}
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.settings = ["workers.runner=dask", f"workers.address={self.address}"]

    def _start(self, *command):
        with (self.folder / "dask.log").open("a") as log:
            # "-m dask" for the interpreter of the test, wherever its scripts are.
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *command, "--host", "127.0.0.1", "--no-dashboard"],
                stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip

    def __enter__(self):
        from distributed import Client

        self.scheduler = self._start("scheduler", "--port", self.address.rsplit(":", 1)[1])
        self.client = Client(self.address, timeout=PATIENCE, set_as_default=False)
        self.restore()
        return self

    def restore(self):
        """Start workers until there are two again."""
        self.workers = {n: child for n, child in self.workers.items() if child.poll() is None}
        while len(self.workers) < 2:
            name = f"worker-{time.monotonic_ns()}"
            self.workers[name] = self._start(
                "worker", self.address, "--no-nanny", "--nthreads", "1", "--name", name
            )
        wait_for("workers", lambda: set(self._names()) == set(self.workers), PATIENCE)

    def _names(self):
        known = self.client.scheduler_info(n_workers=-1)["workers"]
        return {worker["name"]: address for address, worker in known.items()}

    def busy(self):
        """Return (pid, task) of each worker that carries out a stage."""
        keys = self.client.processing()
        at = {name: keys.get(address, ()) for name, address in self._names().items()}
        return [
            (self.workers[name].pid, str(tasks[0]).rsplit("-", 1)[0])
            for name, tasks in at.items()
            if tasks and name in self.workers
        ]

    def __exit__(self, *error):
        self.client.close()
        for child in (*self.workers.values(), self.scheduler):
            child.kill()
            child.wait()


class Ray:
    """The cluster that each run starts for itself; its processes say what they do in their name."""

    settings = ("workers.runner=ray",)

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def restore(self):
        """Do nothing: Ray starts workers by itself."""

    def busy(self):
        """Return (pid, task) of each worker of this process's cluster that carries out a stage."""
        import psutil

        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                name = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if name.startswith("ray::") and "IDLE" not in name:
                found.append((child.pid, name.removeprefix("ray::")))
        return found


CLUSTERS = {"dask": Dask, "ray": Ray}


class Killer(threading.Thread):
    """Kills one busy worker, some time after a number of stages is committed."""

    def __init__(self, cluster, store, moment, delay):
        super().__init__(daemon=True)
        self.cluster, self.store, self.moment, self.delay = cluster, store, moment, delay
        self.killed, self.stopped = "", threading.Event()

    def run(self):
        """Wait for the moment, then for a worker that is busy."""
        while not self.stopped.is_set():
            committed = sum(1 for _ in Path(self.store).glob("stages/*/*/record.json"))
            if committed >= self.moment and self.cluster.busy():
                self.stopped.wait(self.delay)
                if busy := self.cluster.busy():
                    pid, self.killed = busy[0]
                    os.kill(pid, signal.SIGKILL)
                    return
            self.stopped.wait(0.01)


def once(number, cluster, store, expected, draw):
    """Kill one busy worker of a run."""
    from flows.descent import descent

    killer = Killer(cluster, store, draw.randrange(0, 10), draw.uniform(0, 0.2))
    killer.start()
    record = descent(load_recipe("digits-selection", [*SMALL, *cluster.settings]), str(store))
    killer.stopped.set()
    killer.join()
    cluster.restore()
    same = (record.digest, record.iterates) == (expected.digest, expected.iterates)
    left = sum(1 for _ in store.glob("stages/replay/*"))
    return Trial(number, killer.killed, same, left)


@contextmanager
def flow_server(folder):
    """Run flows of this process against a server beside it."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    with PrefectServer(folder) as server:
        settings = {PREFECT_API_URL: server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(settings):
            yield


def trials(folder, count, runner="dask", seed=0):
    """Yield trials, all on one Prefect server and, with Dask, one cluster."""
    from flows.descent import descent

    draw = random.Random(seed)
    with ExitStack() as stack:
        stack.enter_context(flow_server(folder))
        cluster = stack.enter_context(CLUSTERS[runner](folder))
        expected = descent(load_recipe("digits-selection", SMALL), str(folder / "alone"))
        for number in range(1, count + 1):
            yield once(number, cluster, folder / f"store-{number}", expected, draw)


def main():
    """Try it, and print a line for each trial and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--runner", choices=sorted(CLUSTERS), default="dask")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        for trial in trials(Path(name), options.trials, options.runner, options.seed):
            done.append(trial)
            sys.stdout.write(f"{trial} {'holds' if trial.holds else 'FAILS'}\n")
            sys.stdout.flush()
    tasks = sorted({trial.killed for trial in done})
    sys.stdout.write(
        f"| SIGKILL of a {options.runner} worker during a stage | {len(done)} runs, in "
        f"{', '.join(tasks)} | {sum(trial.holds for trial in done)} hold |\n"
    )
    return 0 if all(trial.holds for trial in done) else 1


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    raise SystemExit(main())
