"""What the witness of a metagradient costs, in plain steps and as a share of a whole call.

Questions: at most three plain steps and two evaluations? At most 1 % of the main job? The main
job's own routine, a GPT of 0.9 M parameters and the ResNet of ``fashion-selection``: a plain step,
an evaluation of the output, the checks before a metagradient with the witness and without, and a
whole metagradient alternate; medians. With a witness the checks run one plain step less of their
own, so its cost is the difference. Then the main job itself: its preflight with and without the
witness, alternating, beside the whole command. All in seconds of CPU of one thread, which other
work on the machine disturbs least.

    python -m tests.bench.bench_witness --date 20261128 [--rounds 5]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import torch

import engine
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.replay.metagradient import check_one_step
from engine.routine.routine import Routine
from engine.stages.run import Run
from engine.stages.training import preflight
from engine.step.step import plain_step
from engine.types import Output
from engine.witness.witness import Witness
from tests.bench.bench_outputs import make_outputs
from tests.bench.bench_step import make_routine
from tests.bench.record import write_record


def problems() -> dict[str, tuple[Routine, Output]]:
    """Return routines and outputs by what they are called in the table."""
    problem = build_problem(load_recipe("digits-selection"))
    found: dict[str, tuple[Routine, Output]] = {
        "main job (MLP, batch 100, T = 200)": (problem.routine, problem.output)
    }
    for name, words in (("gpt", "GPT, batch 16 x 128, T = 36"), ("resnet", "ResNet, T = 36")):
        routine = make_routine(name, 36)
        found[words] = routine, make_outputs(routine, 1)[0]
    return found


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each call; they alternate, and the first is left out."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            taken[name].append(time.process_time() - started)
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def measure(routine: Routine, output: Output, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of a step, an evaluation, the checks and a bare metagradient."""
    z = routine.point()
    state = routine.initial_state()
    return medians(
        {
            "step": lambda: plain_step(routine, state, z, 0),
            "evaluation": lambda: routine.evaluate(output, state),
            "with": lambda: check_one_step(routine, [output], z, witness=True),
            "without": lambda: check_one_step(routine, [output], z, witness=False),
            "metagradient": lambda: engine.metagradient(routine, output, witness=False),
        },
        rounds,
    )


def main_job(rounds: int) -> list[str]:
    """Return what the main job takes, and its preflight with the witness and without."""
    recipe = load_recipe("digits-selection").descent

    def check() -> None:
        with tempfile.TemporaryDirectory() as store:
            preflight(Run(recipe, store))

    def unseen() -> None:
        with mock.patch("engine.preflight.checkup.testify", return_value=Witness(0.0, 0.0, 0.0)):
            check()

    found = medians({"with": check, "without": unseen}, rounds)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as store:
        subprocess.run(
            [sys.executable, "-m", "flows.cli.app", "run", "--store", store],
            check=True,
            capture_output=True,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    share = (found["with"] - found["without"]) / whole
    return [
        "",
        f"The main job, `python -m flows.cli.app run`, took {whole:.0f} s of CPU with Prefect's "
        f"server; its preflight {1e3 * found['with']:.0f} ms with the witness and "
        f"{1e3 * found['without']:.0f} ms without, so the witness is {share:.2%} of the job.",
    ]


def main() -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    lines = [
        "Seconds are those of CPU. A witness is a plain step of the module itself, one that the",
        "other checks take without it, two evaluations, and what stands beside finite differences:",
        "four gradients of one example in float64, six updates, and of the output its gradient and",
        "two values in float64 (of 16 examples, where it is the mean loss of more). The last is",
        "more than was asked, and finds what is detached in an output. A step as small as the main",
        "job's is made of calls, of which the witness makes as many as some steps do.",
        "",
        "| run | plain step | evaluation | checks without | with | the witness, in plain steps | "
        "less two evaluations | of a metagradient |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with deterministic(1):
        torch.set_num_threads(1)
        for name, (routine, output) in problems().items():
            found = measure(routine, output, arguments.rounds)
            milli = {key: f"{1e3 * value:.1f} ms" for key, value in found.items()}
            cost = found["with"] - found["without"]
            lines.append(
                f"| {name} | {milli['step']} | {milli['evaluation']} | {milli['without']} | "
                f"{milli['with']} | {cost / found['step']:.1f} | "
                f"{(cost - 2 * found['evaluation']) / found['step']:.1f} | "
                f"{cost / found['metagradient']:.1%} |"
            )
        lines += main_job(arguments.rounds)
    command = f"python -m tests.bench.bench_witness --date {arguments.date}"
    write_record("witness", "What the witness costs", command, lines, arguments.date)


if __name__ == "__main__":
    main()
