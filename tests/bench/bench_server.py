"""Where the limit of SQLite is: several runs at once on one Prefect server.

Counted: how long each run takes, and how often the server says that its database is locked.

Usage: ``python -m tests.bench.bench_server --runs 6 --database postgresql``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.helpers.machine.servers import PrefectServer, postgresql
from tests.helpers.runs.tiny_recipe import SMALL, as_options


def timed_run(server, store, number):
    """Run a recipe of 75 stages with a seed of its own; return its seconds and its exit code."""
    changes = [*SMALL, "training.threads=1", "outer.num_steps=10", f"training.seed={number}"]
    options = as_options(changes)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.app", "run", "digits-selection", *options,
         "--store", store],
        env=server.environment, check=False, capture_output=True,
    )  # fmt: skip
    return round(time.perf_counter() - started, 1), done.returncode


def main():
    """Run them, and print what was counted as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        on_postgresql = options.database == "postgresql"
        database = stack.enter_context(postgresql(folder)) if on_postgresql else None
        server = stack.enter_context(PrefectServer(folder, database))
        alone, _ = timed_run(server, str(folder / "alone"), 99)
        started = time.perf_counter()
        with ThreadPoolExecutor(options.runs) as pool:
            numbers = range(options.runs)
            done = list(pool.map(lambda n: timed_run(server, str(folder / f"s{n}"), n), numbers))
        found = {
            "database": options.database,
            "alone_seconds": alone,
            "together_seconds": round(time.perf_counter() - started, 1),
            "each_seconds": sorted(seconds for seconds, _ in done),
            "failed": sum(code != 0 for _, code in done),
            "database_is_locked": (folder / "server.log").read_text().count("database is locked"),
        }
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
