"""What the witness of a metagradient costs, in plain steps and as a share of a whole call.

Question: at most three plain steps and two evaluations, and 1 % of the main job's time. The main
job's own routine, a GPT of 0.9 M parameters and the ResNet of ``fashion-selection``: a plain step,
an evaluation of the output, the witness and a whole metagradient alternate; medians.

    python -m tests.bench.bench_witness --date 20261128 [--rounds 5]
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable

import torch

import engine
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.problems.problem import build_problem
from engine.recipes.files import load_recipe
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import Output
from engine.witness.witness import testify
from tests.bench.bench_outputs import make_outputs
from tests.bench.bench_step import make_routine
from tests.bench.record import write_record

MAIN_JOB_STEPS = 5 * 200 * 5 + 200 * 5
"""Plain steps in the main job, about: five outer steps of a metagradient each, and baselines."""


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
    """Return the median seconds of each call; they alternate, and the first round is left out."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            taken[name].append(time.process_time() - started)
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def measure(routine: Routine, output: Output, rounds: int) -> dict[str, float]:
    """Return the seconds of a step, an evaluation, the witness and a metagradient without it."""
    z = routine.point()
    state = routine.initial_state()
    return medians(
        {
            "step": lambda: plain_step(routine, state, z, 0),
            "evaluation": lambda: routine.evaluate(output, state),
            "witness": lambda: testify(routine, [output], z),
            "metagradient": lambda: engine.metagradient(routine, output, witness=False),
        },
        rounds,
    )


def main() -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    lines = [
        f"Commit {commit}. What a witness takes beyond three plain steps and two evaluations is",
        "the comparison of second derivatives, on eight examples in float64, and the twin for it.",
        "",
        "| run | plain step | evaluation | witness | in plain steps | of a metagradient |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with deterministic(1):
        torch.set_num_threads(1)
        for name, (routine, output) in problems().items():
            found = measure(routine, output, arguments.rounds)
            lines.append(
                f"| {name} | {1e3 * found['step']:.1f} ms | {1e3 * found['evaluation']:.1f} ms | "
                f"{1e3 * found['witness']:.0f} ms | {found['witness'] / found['step']:.1f} | "
                f"{found['witness'] / found['metagradient']:.1%} |"
            )
            if name.startswith("main job"):
                share = found["witness"] / (MAIN_JOB_STEPS * found["step"])
                lines.append(
                    f"| the same, of about {MAIN_JOB_STEPS} plain steps of the whole job | | | | | "
                    f"{share:.2%} |"
                )
    command = f"python -m tests.bench.bench_witness --date {arguments.date}"
    write_record("witness", "What the witness costs", command, lines, arguments.date)


if __name__ == "__main__":
    main()
