"""Does the paper's direction show, at a size that two cores train, on data that tuned nothing?

Runs rows of ``tests.bench.reproduction_rows`` by the command line, one run after the other, and
writes what was asked, what was measured and whether it holds. The settings of the recipes were
chosen on the splits of their own ``arguments.seed``, 0, or on 100 and above. What is reported comes
from other seeds, each of which draws the splits, the wrong labels, the initial parameters and the
order anew. The official test images of Fashion-MNIST are the same for all of them.

A run that was killed goes on from its last stage, since it is the same run in the same store; the
object of a finished one is kept beside it and read.

It is here and not among the tests because it takes hours; ``tests/bench/test_reproductions.py``
asserts the directions on small runs.

    python -m tests.bench.bench_reproductions [--rows digits-selection] [--seeds 11,12,13]
        [--store FOLDER] [--finished] [--record 20261124]
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

from engine.recipes.files import load_recipe
from engine.recipes.settings import digest
from engine.stages.keys import engine_version
from tests.bench.record import write_record
from tests.bench.reproduction_rows import ROWS, Figure, Row, Run
from tests.helpers.runs.tiny_recipe import as_options

DIGITS_SEEDS, FASHION_SEEDS = [11, 12, 13], [11]
"""Reported; settings were never chosen by them."""

HEADER = [
    "| row | figure | asked | measured | over the runs | holds in |",
    "| --- | --- | --- | --- | --- | --- |",
]

NOTES = [
    "",
    "Measured is the mean over the runs: seeds 11, 12 and 13 for the digits, 11 for Fashion-MNIST, "
    "each with its own splits, wrong labels, initial parameters and order.",
    "The settings were chosen on other splits (`arguments.seed` 0, or 100 and above).",
    "Rows with several step sizes have a run for each step size and seed.",
    "Bounds of `place in the grid` and `below Optuna` are asked of most runs, all others of each.",
    "Rows that are not here were not run.",
]


def changes_of(row: Row, variant: tuple[str, ...], seed: int) -> list[str]:
    """Return the settings of one run of a row."""
    own = load_recipe(row.recipe)
    seeded = ["arguments", "training", *(["outer"] if own.kind == "descent" else [])]
    return [*row.changes, *variant, *(f"{name}.seed={seed}" for name in seeded)]


def object_place(row: Row, changes: list[str], store: Path) -> Path:
    """Return where the object of a run is kept: named by its settings and the engine."""
    settings = digest(load_recipe(row.recipe, changes).model_dump(mode="json"))
    name = f"{row.recipe}-{settings[:8]}-{engine_version()[:8]}.json"
    return store / "reproductions" / name


def carry_out(row: Row, changes: list[str], store: Path, *, finished: bool) -> Run | None:
    """Run a recipe, or read what a finished run of it printed.

    Args:
        row: Its recipe.
        changes: Its settings.
        store: Folder.
        finished: Only read; None if there is nothing to read.
    """
    place = object_place(row, changes, store)
    if place.is_file():
        return json.loads(place.read_text())
    if finished:
        return None
    options = as_options(changes)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.app", "run", row.recipe, *options, "--store", str(store),
         "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )  # fmt: skip
    printed = done.stdout.splitlines()[-1]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(printed)
    return json.loads(printed)


def line(name: str, figure: Figure, runs: list[Run]) -> str:
    """Return a figure's line of the table: mean, range, and in how many runs its bound holds."""
    values = [figure.value(run) for run in runs]
    spread = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
    asked, kept = figure.asked, ""
    if figure.holds is not None:
        count = sum(figure.holds(run) for run in runs)
        enough = count > len(runs) / 2 if figure.most else count == len(runs)
        kept = f"{count} of {len(runs)}: {'yes' if enough else 'no'}"
    return (
        f"| {name} | {figure.name} | {asked} | {statistics.mean(values):.2f} | {spread} | {kept} |"
    )


def table(name: str, runs: list[Run]) -> list[str]:
    """Return the lines of a row."""
    return [line(name, figure, runs) for figure in ROWS[name].figures]


def main() -> None:
    """Carry out the rows that are asked for; print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", action="append", choices=list(ROWS), help="all by default")
    parser.add_argument("--seeds", help="11,12,13 by default, and 11 for Fashion-MNIST")
    parser.add_argument("--store", type=Path, default=Path("mgd-store"))
    parser.add_argument("--finished", action="store_true", help="only what has been run")
    parser.add_argument("--record", help="date of the record in tests/bench/results to write")
    options = parser.parse_args()
    if options.seeds and not re.fullmatch(r"\d+(,\d+)*", options.seeds):
        parser.error(f"--seeds {options.seeds} are no numbers with commas, e.g. 11,12,13.")
    given = [int(seed) for seed in (options.seeds or "").split(",") if seed]
    lines = list(HEADER)
    for name in options.rows or ROWS:
        row = ROWS[name]
        seeds = given or (FASHION_SEEDS if row.recipe.startswith("fashion") else DIGITS_SEEDS)
        runs = []
        for seed in seeds:
            for variant in row.variants:
                changes = changes_of(row, variant, seed)
                run = carry_out(row, changes, options.store, finished=options.finished)
                runs += [run] if run is not None else []
        if runs:
            found = table(name, runs)
            lines += found
            sys.stderr.write("\n".join(found) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")
    if options.record:
        command = "python -m tests.bench.bench_reproductions"
        write_record("reproductions", "Reproductions", command, [*lines, *NOTES], options.record)


if __name__ == "__main__":
    main()
