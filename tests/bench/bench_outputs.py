"""What K outputs cost in one reverse sweep, for the ResNet of ``fashion-selection``.

Question: the whole metagradient of K outputs over that of one, with every state stored: at most
4.5 for K = 8. Numbers of outputs alternate, several rounds, medians; random images.

    python tests/bench/bench_outputs.py [--rounds 3] [--steps 6] [--problem resnet|gpt]
"""

import argparse
import json
import platform
import statistics
import time

import torch
from torch import nn

from engine.numerics.determinism import deterministic
from engine.numerics.environment import environment
from engine.numerics.process import keep_freed_memory
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.replay.interpreter import Sweep, replay
from engine.routine.routine import Routine
from engine.schedules.by_name import schedule_maker
from engine.schedules.trees import Tier, whole_run
from engine.storage.states import MemoryStates
from engine.types import Output
from tests.bench.bench_step import make_routine

COUNTS = (1, 2, 4, 8)


def make_outputs(routine: Routine, count: int) -> list[Output]:
    """Mean losses of different held-out examples."""
    outputs: list[Output] = []
    for start in range(0, 4 * count, 4):
        batch = tuple(column[start : start + 4] for column in routine.examples)

        def output(model: nn.Module, batch: tuple[torch.Tensor, ...] = batch) -> torch.Tensor:
            return routine.loss(model, batch).mean()

        outputs.append(output)
    return outputs


def sweep_seconds(routine: Routine, count: int) -> float:
    """Train, seed and reverse once, without the checks of ``metagradients``, whose part shrinks."""
    outputs = make_outputs(routine, count)
    actions = whole_run(
        routine.num_steps,
        schedule_maker(ReplaySettings(schedule=ScheduleName.STORE_ALL)),
        tier=Tier.MEMORY,
    )
    started = time.perf_counter()
    replay(
        actions,
        routine,
        routine.point(),
        {Tier.MEMORY: MemoryStates()},
        Sweep(state=routine.initial_state()),
        output=outputs[0] if count == 1 else outputs,
    )
    return time.perf_counter() - started


def main() -> None:
    """Print one JSON line for each number of outputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--problem", choices=["resnet", "gpt"], default="resnet")
    arguments = parser.parse_args()
    keep_freed_memory()
    print(  # noqa: T201
        json.dumps({"machine": platform.platform(), **environment(threads=arguments.threads)})
    )
    routine = make_routine(arguments.problem, arguments.steps)
    seconds: dict[int, list[float]] = {count: [] for count in COUNTS}
    with deterministic(arguments.threads):
        sweep_seconds(routine, 1)
        for _ in range(arguments.rounds):
            for count in COUNTS:
                seconds[count].append(sweep_seconds(routine, count))
    for count, took in seconds.items():
        ratios = [t / one for t, one in zip(took, seconds[1], strict=True)]
        line = {"problem": arguments.problem, "outputs": count, "s": statistics.median(took)}
        ratio = {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        print(json.dumps({**line, **ratio}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
