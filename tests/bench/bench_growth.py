"""How time and memory of a whole metagradient grow with T at a fixed memory budget.

Questions: does the time grow as the schedule's own count of steps (goal: within 10 %), and is the
peak of tensor bytes flat (goal: within 5 %), from T = 64 to 4096 with a fixed number of states?
``time / count`` is the time of a metagradient over forward steps x a plain step + reversed steps x
a product, both timed beside it in the same round; its growth is that ratio over the ratio at the
smallest T. Lengths take turns; medians. Bytes are counted in a run of their own.

    python -m tests.bench.bench_growth [--rounds 5] [--slots 12] [--largest 4096] [--record FILE]
"""

import argparse
import os
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.replay.interpreter import Sweep, replay, reverse_step
from engine.schedules.by_name import schedule_maker
from engine.schedules.simulator import measure
from engine.schedules.trees import Forward, whole_run
from tests.bench.record import write_record
from tests.helpers.machine.memory import PeakMemory

_TIMED = 400  # steps of each kind that a round's units are timed over


def make_routine(num_steps: int) -> engine.Routine:
    """A small run: the state is larger than what a step computes."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(64, 64), torch.randint(0, 10, (64,))
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))
    return engine.Routine(
        model,
        loss,
        (inputs, labels),
        engine.adamw(eps_root=1e-6),
        1e-4,
        num_steps,
        16,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(64))},
    )


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Per-example cross-entropy."""
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def whole(num_steps: int, slots: int) -> None:
    """Take one metagradient."""
    routine = make_routine(num_steps)
    batch = (routine.examples[0], routine.examples[1])
    engine.metagradient(
        routine, lambda m: loss(m, batch).mean(), schedule="binomial", num_slots=slots
    )


def units() -> tuple[float, float]:
    """Time a plain step and a product."""
    routine = make_routine(_TIMED)
    z, state = routine.point(), routine.initial_state()
    cotangent = {name: torch.ones_like(row) for name, row in state.items()}
    with deterministic():
        started = time.perf_counter()
        replay([Forward(0, _TIMED)], routine, z, {}, Sweep(state=state))
        plain = time.perf_counter() - started
        started = time.perf_counter()
        for step in range(_TIMED):
            reverse_step(routine, z, step, Sweep(state=state, adjoint=cotangent))
        product = time.perf_counter() - started
    return plain / _TIMED, product / _TIMED


def main() -> None:
    """Measure, print a table, and write it to a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=12)
    parser.add_argument("--largest", type=int, default=4096)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    lengths = [4**power for power in range(3, 7) if 4**power <= arguments.largest]
    settings = ReplaySettings(schedule=ScheduleName.BINOMIAL, num_slots=arguments.slots)
    plan = schedule_maker(settings)
    costs = {steps: measure(whole_run(steps, plan)) for steps in lengths}
    ratios: dict[int, list[float]] = {steps: [] for steps in lengths}
    whole(64, arguments.slots)
    units()
    for turn in range(arguments.rounds):
        for steps in lengths if turn % 2 == 0 else reversed(lengths):
            plain, product = units()
            started = time.perf_counter()
            whole(steps, arguments.slots)
            seconds = time.perf_counter() - started
            after = units()  # a busy neighbour slows both, so both ends are averaged
            plain, product = (plain + after[0]) / 2, (product + after[1]) / 2
            count = costs[steps].forward_steps * plain + steps * product
            ratios[steps].append(seconds / count)
    peaks: dict[int, int] = {}
    for steps in lengths:
        with PeakMemory() as memory:
            whole(steps, arguments.slots)
        peaks[steps] = memory.peak
    base = statistics.median(ratios[lengths[0]])
    lines = [
        f"Binomial schedule with {arguments.slots} states; {arguments.rounds} rounds in turn, "
        f"load {os.getloadavg()[0]:.1f}.",
        "",
        "| T | forward steps / T | time / count | least to most | growth | peak MB | growth |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for steps in lengths:
        middle = statistics.median(ratios[steps])
        lines.append(
            f"| {steps} | {costs[steps].forward_steps / steps:.2f} | {middle:.3f} "
            f"| {min(ratios[steps]):.2f} to {max(ratios[steps]):.2f} | {middle / base:.3f} "
            f"| {peaks[steps] / 1e6:.2f} | {peaks[steps] / peaks[lengths[0]]:.3f} |"
        )
    print("\n".join(lines))  # noqa: T201
    if arguments.record:
        command = f"python -m tests.bench.bench_growth --rounds {arguments.rounds}"
        date = f"{datetime.now(UTC):%Y%m%d}"
        place = write_record("growth", "Time and memory as T grows", command, lines, date)
        print(Path(place).name)  # noqa: T201


if __name__ == "__main__":
    main()
