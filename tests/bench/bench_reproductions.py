"""Does the paper's direction show, at a size that two cores train, for several seeds?

Runs recipes by the command line, one after the other, and writes a table of what was measured
beside what was asked for. Seeds are those of the inner training, data and flips stay.

It is here and not among the tests because it takes an hour; what it reads of a run is tested on
small ones in ``tests/flows/test_comparison.py`` and ``tests/engine/test_schedules.py``.

    python -m tests.bench.bench_reproductions [--only digits-selection] [--seeds 0,1,2]
        [--store FOLDER] [--markdown table.md]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = dict[str, Any]
"""The JSON object of ``mgd run --json``."""

FEW = ["data.num_objective=20", "baselines=[]"]
"""A target of 20 examples, which a selection over-fits."""


def fall(run: Run) -> float:
    """Return the share of the test loss that is gone, in per cent."""
    test = run["test"]
    return 100 * (1 - test["after"]["loss"] / test["before"]["loss"])


def within_five(run: Run) -> float:
    """Return the share of the objective that is gone within five outer steps, in per cent."""
    return 100 * (1 - min(run["objective"][:6]) / run["objective"][0])


def ahead_of(name: str) -> Callable[[Run], float]:
    """Return by how much the test loss is below a baseline's, in per cent."""
    return lambda run: 100 * (1 - run["test"]["after"]["loss"] / run["baselines"][name]["loss"])


def points(run: Run) -> float:
    """Return by how many points the test accuracy falls."""
    return 100 * (run["test"]["before"]["accuracy"] - run["test"]["after"]["accuracy"])


def naive_points(run: Run) -> float:
    """Return the same of the most harmful naive poison."""
    clean = run["test"]["before"]["accuracy"]
    return 100 * max(clean - each["accuracy"] for each in run["baselines"].values())


def transferred(run: Run) -> float:
    """Return the mean fall under other seeds and routines, in points."""
    pairs = [p for p in run["reruns"].values() if p["before"] and p["after"]]
    return 100 * statistics.mean(p["before"]["accuracy"] - p["after"]["accuracy"] for p in pairs)


def grid_place(run: Run) -> float:
    """Return the place of the chosen schedule in the grid, in per cent of its size."""
    return 100 * run["grid"]["rank"] / run["grid"]["trainings"]


def beside_optuna(run: Run) -> float:
    """Return by how much the validation loss is below Optuna's, in per cent."""
    return 100 * (1 - run["validation"]["after"]["loss"] / run["optuna"]["best"])


SELECTION: dict[str, Callable[[Run], float]] = {
    "objective within five steps, % less (30 or more)": within_five,
    "test loss, % less": fall,
    "AUC of wrong labels (above 0.8)": lambda run: run["auc"],
    "below random, %": ahead_of("random"),
    "below low loss, %": ahead_of("low-loss"),
    "below gradient similarity, %": ahead_of("gradient-similarity"),
}
POISON: dict[str, Callable[[Run], float]] = {
    "accuracy falls, points (3 or more)": points,
    "best naive poison, points (a third or less)": naive_points,
    "other seeds and ReLU, points": transferred,
}
MIXTURE: dict[str, Callable[[Run], float]] = {
    "test loss, % less": fall,
    "below uniform, %": ahead_of("uniform"),
    "below proportional, %": ahead_of("proportional"),
}
SCHEDULE: dict[str, Callable[[Run], float]] = {
    "test loss, % less (50 or more)": fall,
    "place in the grid, best % (5 or less)": grid_place,
    "below Optuna in validation, %": beside_optuna,
}
OVER_FITTED: dict[str, Callable[[Run], float]] = {
    "objective, % less": lambda run: 100 * (1 - run["objective"][-1] / run["objective"][0]),
    "test loss of the chosen iterate, % less": fall,
}

ROWS: dict[str, tuple[str, list[str], dict[str, Callable[[Run], float]]]] = {
    "digits-selection": ("digits-selection", [], SELECTION),
    "digits-selection, 20 target examples": ("digits-selection", FEW, OVER_FITTED),
    "digits-exchange": ("digits-exchange", [], SELECTION),
    "digits-mixture": ("digits-mixture", [], MIXTURE),
    "digits-schedule": ("digits-schedule", [], SCHEDULE),
    "digits-poison": ("digits-poison", [], POISON),
    "fashion-selection": ("fashion-selection", [], SELECTION),
    "fashion-poison": ("fashion-poison", [], POISON),
}
"""Name of a row to its recipe, changed settings and figures."""


def measure(name: str, seeds: str, store: str) -> list[Run]:
    """Run a row for each seed, or read what the store has of it; return the JSON objects."""
    recipe, changes, _ = ROWS[name]
    options = [part for change in changes for part in ("--set", change)]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", recipe, *options, "--seeds", seeds,
         "--store", store, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])["runs"]


def table(name: str, runs: list[Run]) -> list[str]:
    """Return the lines of a row: mean and range over the seeds."""
    lines = []
    for what, figure in ROWS[name][2].items():
        values = [figure(run) for run in runs]
        spread = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
        lines.append(f"| {name} | {what} | {statistics.mean(values):.2f} | {spread} |")
    seconds = statistics.median(run["seconds"] for run in runs)
    return [*lines, f"| {name} | seconds a run, median | {seconds:.0f} | |"]


def main() -> None:
    """Measure the rows that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(ROWS))
    parser.add_argument("--seeds", help="of digits, 0,1,2 by default; Fashion-MNIST has one, 0")
    parser.add_argument("--store")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    lines = ["| recipe | figure | mean | over the seeds |", "| --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or ROWS:
            seeds = options.seeds or ("0" if name.startswith("fashion") else "0,1,2")
            lines += table(name, measure(name, seeds, options.store or folder))
            if options.markdown:
                options.markdown.write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
