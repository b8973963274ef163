"""How well the time that is left is known: small runs of five shipped recipes, look by look.

Each run is carried out by its flow, and looked at twice a second as a terminal does. Afterwards it
is known what was left at each look. What the runs told of themselves is kept, for a test.

Usage: ``python -m tests.bench.bench_time_left --date 20261128``.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
from multiprocessing import get_context

from engine.progress import board
from engine.progress.displays import ticking
from engine.progress.meter import Meter, heard_by
from engine.recipes.files import load_recipe
from flows.cli.server.local_server import LocalServer, connected
from flows.registry import FLOWS
from tests.bench.record import write_record
from tests.helpers.runs.streams import CPU, FOLDER, WALL, Recording, errors, read_streams, tell

RECIPES = {
    "digits-selection": ["outer.num_steps=20", "training.threads=1"],
    "digits-mixture": ["outer.num_steps=20", "training.threads=1"],
    "digits-schedule": ["outer.num_steps=20", "schedules.grid=100", "schedules.chunk=20",
                        "schedules.optuna=false", "training.threads=1"],
    "digits-poison": ["outer.num_steps=12", "training.threads=1"],
    "digits-attribution": ["attribution.num_subsets=24", "attribution.trainings_per_stage=2",
                           "attribution.num_queries=4", "training.threads=1"],
    "fashion-selection": ["outer.num_steps=1", "training.threads=1"],
}  # fmt: skip
"""What is changed of each recipe, so that it takes half a minute or a whole one."""


HEADING = [
    "| recipe | works | seconds | load | at 25 % | at 50 % | at 75 % | largest | median |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]


def watch(name, folder):
    """Carry out a run; keep what it told, with the load at its end."""
    logging.disable(logging.WARNING)
    board.TimeLeft = Recording
    recipe, meter = load_recipe(name, RECIPES[name]), Meter()
    with (
        tempfile.TemporaryDirectory() as store,
        connected(LocalServer()),
        heard_by(meter),
        ticking(lambda: [each.snapshot() for each in meter.boards]),
    ):
        FLOWS[recipe.kind](recipe, store)
    stream = Recording.made[0].stream | {"load": round(os.getloadavg()[0])}
    text = json.dumps(stream, separators=(",", ":"))
    (folder / f"{name}.json").write_text(f"{text}\n")


def at(seen, whole, share):
    """Return the relative error at the first look after a share of the run."""
    return next(
        abs(said - rest) / rest
        for gone, said, rest in seen
        if said is not None and rest > 0 and gone >= share * whole
    )


def row(name, stream, clock):
    """Return a row of the table."""
    whole, seen = tell(stream, clock)
    later = [error for _, error in errors(stream, clock)]
    figures = [*(at(seen, whole, share) for share in (0.25, 0.5, 0.75)), max(later)]
    shown = " | ".join(f"{100 * each:.0f} %" for each in figures)
    median = statistics.median(later)
    works = len(stream["works"])
    return f"| {name} | {works} | {whole:.0f} | {stream['load']} | {shown} | {100 * median:.0f} % |"


def lines():
    """Return the text of the record, from the streams that are kept."""
    streams = read_streams()
    missing = [name for name in RECIPES if name not in streams]
    rows = {
        clock: [row(name, each, clock) for name, each in streams.items()] for clock in (CPU, WALL)
    }
    return [
        "Error of the time left, relative to what was left, at the first look after a quarter, a",
        "half and three quarters of the run, and the largest and the median one from a quarter to",
        "nine tenths. The last tenth is left out: a few seconds are said to be a few seconds.",
        "",
        "By the wall, with the load of other programs on the two cores at the end of the run:",
        "",
        *HEADING,
        *rows[WALL],
        "",
        "By the clock of the processor, which counts what the process has computed: others may use",
        "the machine too, and no estimate knows when they begin and end.",
        "",
        *HEADING,
        *rows[CPU],
        "",
        "What nobody plans (a report, searches that are trained as one batch) is guessed in",
        "`engine/planning/expected.py`; the guesses were set by what these runs took.",
        "",
        "Changed of the recipes:",
        "",
        *(f"- {name}: `{' '.join(RECIPES[name])}`" for name in streams),
        *([f"\nRecipes of which nothing is kept: {', '.join(missing)}."] if missing else []),
    ]


def main():
    """Run recipes, keep what they told, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", required=True)
    parser.add_argument("--recipe", action="append", choices=[*RECIPES, "none"])
    options = parser.parse_args()
    chosen = [name for name in options.recipe or RECIPES if name != "none"]
    FOLDER.mkdir(exist_ok=True)
    for name in chosen:  # each loads what it needs, as a command does
        process = get_context("spawn").Process(target=watch, args=(name, FOLDER))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} ended with {process.exitcode}")
    command = f"python -m tests.bench.bench_time_left --date {options.date}"
    command += "".join(f" --recipe {name}" for name in options.recipe or ())
    write_record("time_left", "Time that is left", command, lines(), options.date)


if __name__ == "__main__":
    main()
