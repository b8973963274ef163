"""Fault: the Prefect server is killed in mid-run and comes back some seconds later.

A run must complete with the bits of an undisturbed one, compute no stage twice, and be Completed in
the database that survived. ``python -m tests.faults.server_restart --trials 20`` tries it at random
moments and prints a table.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.helpers.machine.servers import PrefectServer, postgresql
from tests.helpers.runs import tiny_recipe

SMALL = [*tiny_recipe.SMALL, "outer.num_steps=10"]


class Trial(NamedTuple):
    """What became of one run."""

    number: int
    """Of the trial."""

    committed: int
    """Stages that were finished when the server was killed."""

    away: float
    """Seconds from the kill until the server answered again."""

    exit_code: int
    """Of the command; 0 is done."""

    same_bits: bool
    """Whether its digest is that of the undisturbed run."""

    num_stages: int
    """Of the undisturbed run."""

    computed: int
    """Stages that it computed; each once."""

    state: str
    """Of the flow run, as the server tells it afterwards."""

    @property
    def holds(self):
        """Whether the run completed as if nothing had happened."""
        return (
            self.exit_code == 0
            and self.same_bits
            and self.computed == self.num_stages
            and self.state == "Completed"
        )


def command(store):
    changes = tiny_recipe.as_options(SMALL)
    return [sys.executable, "-m", "flows.cli.app", "run", "digits-selection", *changes,
            "--store", str(store), "--json"]  # fmt: skip


def undisturbed(server, store):
    """Return digest and number of stages of a run that nothing happens to."""
    done = subprocess.run(
        command(store), env=server.environment, capture_output=True, text=True, check=True
    )
    content = json.loads(done.stdout.splitlines()[-1])
    return content["digest"], content["stages"]["total"]


def committed(store):
    return sum(1 for _ in Path(store).glob("stages/*/*/record.json"))


def last_state(server):
    """Return the name of the state of the newest flow run."""
    body = json.dumps({"sort": "EXPECTED_START_TIME_DESC", "limit": 1}).encode()
    request = urllib.request.Request(
        f"{server.url}/flow_runs/filter", body, {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=300))[0]["state_name"]


def once(number, server, store, expected, draw):
    """Kill the server at a random stage, start it again after 5 to 10 s, and wait for the run."""
    digest, num_stages = expected
    moment, away = draw.randrange(1, num_stages - 5), draw.uniform(5, 10)
    how = draw.choice([signal.SIGKILL, signal.SIGTERM])
    with subprocess.Popen(
        command(store),
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        try:
            while committed(store) < moment and child.poll() is None:
                time.sleep(0.05)
            before, killed = committed(store), time.monotonic()
            server.stop(how)
            time.sleep(max(0.0, away - (time.monotonic() - killed)))
            server.start()
            came_back = time.monotonic() - killed
            output, _ = child.communicate(timeout=3600)
        finally:
            child.kill()
    content = json.loads(output.splitlines()[-1]) if child.returncode == 0 else {}
    stages = content.get("stages", {"total": 0, "cached": 0})
    return Trial(
        number=number,
        committed=before,
        away=came_back,
        exit_code=child.returncode,
        same_bits=content.get("digest") == digest,
        num_stages=num_stages,
        computed=stages["total"] - stages["cached"],
        state=last_state(server),
    )


def trials(folder, count, seed=0, database=None):
    """Yield trials, all on one server with one database."""
    draw = random.Random(seed)
    with PrefectServer(folder, database) as server:
        expected = undisturbed(server, folder / "undisturbed")
        for number in range(1, count + 1):
            yield once(number, server, folder / f"store-{number}", expected, draw)


def main():
    """Try it, and print a line for each trial and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    done = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        on_postgresql = options.database == "postgresql"
        database = stack.enter_context(postgresql(folder)) if on_postgresql else None
        for trial in trials(folder, options.trials, options.seed, database):
            done.append(trial)
            sys.stdout.write(f"{trial} {'holds' if trial.holds else 'FAILS'}\n")
            sys.stdout.flush()
    away = [trial.away for trial in done]
    sys.stdout.write(
        f"| Prefect server restarted in mid-run ({options.database}) | {len(done)} | "
        f"{sum(trial.holds for trial in done)} hold; away {min(away):.0f} to {max(away):.0f} s, "
        f"median {statistics.median(away):.0f} s |\n"
    )
    return 0 if all(trial.holds for trial in done) else 1


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    raise SystemExit(main())
