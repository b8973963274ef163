"""Is a reverse sweep faster on two workers than on one, and is it the same?

One sweep over the segments of one training run, on a local Dask cluster of two workers with one
thread each. Segments are long, the tree is binary and a step computes much for the size of its
state, so that what a segment's replays cost outweighs what its states cost to be stored. Without a
look-ahead one worker replays and reverses every segment; with it the other worker replays the next
segments meanwhile. The two alternate; every sweep starts from a fresh copy of the trained store.
Counted besides time: plain steps that the reversing worker is spared.
``python -m tests.bench.bench_workers --rounds 5``
"""

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from prefect import flow

from engine.problems.segments import segments
from engine.progress.board import Course
from engine.recipes.files import load_recipe
from engine.schedules.by_name import schedule_maker
from engine.schedules.simulator import measure
from engine.stages import training as stages
from engine.stages.run import Run
from flows.cli.server.local_server import LocalServer, connected
from flows.parts.sweep import reverse_sweep
from tasks import training
from tasks.running.progress import Progress
from tasks.running.runner import StageRunner
from tasks.running.workers import Workers, open_workers

SETTINGS = [
    "metaparameters.name=weights",
    "outer.update=sign",
    "outer.num_steps=1",
    "arguments.model.width=192",
    "arguments.model.depth=3",
    "training.threads=1",
    "training.batch_size=600",
    "training.learning_rate=0.01",
    "replay.arity=2",
    "workers.runner=dask",
    "workers.num_workers=2",
]


def trained(recipe, store):
    """Train a run and seed its adjoint in this process; return what a sweep starts from."""
    parts = segments(recipe)
    value, state, borders = stages.initial_value(Run(recipe, store)), None, {0: None}
    for part in parts:
        state = stages.train_segment(Run(recipe, store), part, value, state)
        borders[part.stop] = state
    return parts, value, borders, stages.seed(Run(recipe, store), value, state)


@flow
def sweeps(recipe, folder, rounds):
    """Time sweeps with and without a look-ahead, in turn."""
    parts, value, borders, adjoint = trained(recipe, str(folder / "trained"))
    seconds, found = {0: [], 2: []}, set()
    with open_workers(recipe.workers) as workers:
        warm_up(recipe, folder, workers)
        for number in range(rounds):
            for lookahead in seconds if number % 2 == 0 else reversed(seconds):
                store = folder / f"{number}-{lookahead}"
                shutil.copytree(folder / "trained", store)
                chosen = recipe.workers.model_copy(update={"lookahead": lookahead})
                changed = recipe.model_copy(update={"workers": chosen})
                runner = StageRunner(
                    changed, str(store), Progress(changed, str(store), Course("a sweep")), workers
                )
                started = time.perf_counter()
                found.add(
                    reverse_sweep(runner, parts, 0, value, borders, adjoint).model_dump_json()
                )
                seconds[lookahead].append(time.perf_counter() - started)
                shutil.rmtree(store)
    return seconds, len(found) == 1


def warm_up(recipe, folder, workers: Workers):
    """Let both workers import what they need."""
    warm = str(folder / "warm")
    progress = Progress(recipe, warm, Course("a warm-up"))
    runner = StageRunner(recipe, warm, progress, workers)
    changed = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": 1})})
    other = StageRunner(changed, warm, progress, workers)
    ready = [each.submit(training.initial_value, "warm up") for each in (runner, other)]
    for each in ready:
        each.result()


def main():
    """Print a row for each schedule."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--segment", type=int, default=64)
    options = parser.parse_args()
    server = LocalServer()
    with connected(server):
        for schedule in ("k-ary", "store-all"):
            recipe = load_recipe(
                "digits-selection",
                [*SETTINGS, f"training.num_steps={options.steps}", f"replay.schedule={schedule}",
                 f"replay.steps_per_segment={options.segment}"],
            )  # fmt: skip
            plan = schedule_maker(recipe.replay)
            spared = measure(plan(options.segment, 0), start=0).forward_steps
            with tempfile.TemporaryDirectory() as name:
                seconds, same = sweeps(recipe, Path(name), options.rounds)
            one, two = (statistics.median(each) for each in (seconds[0], seconds[2]))
            sys.stdout.write(
                f"| {schedule} | {spared} | {one:.2f} ({min(seconds[0]):.2f} to "
                f"{max(seconds[0]):.2f}) | {two:.2f} ({min(seconds[2]):.2f} to "
                f"{max(seconds[2]):.2f}) | {one / two:.2f} | {'yes' if same else 'NO'} |\n"
            )
            sys.stdout.flush()
    server.stop()


if __name__ == "__main__":
    main()
