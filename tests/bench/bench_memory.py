"""How memory and time of a whole metagradient grow with T, for the k-ary tree and store-all.

Question: is peak memory flat in T for the k-ary tree? Each row is a fresh process. ``states`` is
what the schedule keeps (counted), ``peak`` the largest growth of resident memory over the start of
the sweep (measured); the state is large beside the step's activations, so that it shows.

    python tests/bench/bench_memory.py [--arity 4] [--largest 4096]
"""

import argparse
import subprocess
import sys

ROW = """
import json, resource, sys, time, torch
from torch import nn
from torch.nn.functional import cross_entropy
import engine
from engine.recipes.replay import ReplaySettings
from engine.schedules.by_name import schedule_maker
from engine.schedules.trees import whole_run
from engine.schedules.simulator import measure

schedule, arity, num_steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
torch.set_num_threads(1)
inputs, labels = torch.randn(64, 256), torch.randint(0, 10, (64,))
model = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))

def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")

routine = engine.Routine(
    model, loss, (inputs, labels), engine.adamw(eps_root=1e-6), 1e-4, num_steps, 16,
    metaparameters={"weights": engine.ExampleWeights(torch.ones(64))},
)
engine.metagradient(engine.Routine(
    model, loss, (inputs, labels), engine.adamw(eps_root=1e-6), 1e-4, 8, 16,
    metaparameters={"weights": engine.ExampleWeights(torch.ones(64))},
), lambda m: loss(m, (inputs, labels)).mean())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
found = engine.metagradient(
    routine, lambda m: loss(m, (inputs, labels)).mean(), schedule=schedule, arity=arity
)
seconds = time.perf_counter() - started
cost = measure(whole_run(num_steps, schedule_maker(ReplaySettings(schedule=schedule, arity=arity))))
state = sum(row.numel() * row.element_size() for row in found.state.values())
print(json.dumps({
    "schedule": schedule, "T": num_steps, "states": cost.peak_states,
    "forward steps / T": round(cost.forward_steps / num_steps, 2),
    "state MB": round(state / 1e6, 2), "expected MB": round(cost.peak_states * state / 1e6, 1),
    "RSS MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    "peak MB": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3, 1),
    "ms / step": round(1e3 * seconds / num_steps, 2),
}))
"""


def main() -> None:
    """Print one JSON line for each schedule and T."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arity", type=int, default=4)
    parser.add_argument("--largest", type=int, default=4096)
    arguments = parser.parse_args()
    lengths = [steps for steps in (64, 256, 1024, 4096) if steps <= arguments.largest]
    for schedule in ("k-ary", "store-all"):
        for num_steps in lengths if schedule == "k-ary" else [n for n in lengths if n <= 1024]:
            command = [sys.executable, "-c", ROW, schedule, str(arguments.arity), str(num_steps)]
            print(subprocess.check_output(command, text=True).strip(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
