"""What a reverse sweep costs, in plain training steps, for the ResNet of ``fashion-selection``.

Question: how many plain steps (forward, backward, update) does one reversed step cost when every
state is stored? Counted besides time: forward and reverse steps. Plain and reversed steps
alternate, several rounds, medians; random images of the recipe's shape.

    python tests/bench/bench_reverse.py [--rounds 9] [--steps 8]
"""

import argparse
import json
import platform
import statistics
import time

import torch

from engine.metaparameters.counts import Counts
from engine.metaparameters.weights import ExampleWeights
from engine.models.build import build_model
from engine.models.losses import per_example_cross_entropy
from engine.numerics.determinism import deterministic
from engine.numerics.environment import environment
from engine.numerics.process import keep_freed_memory
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.files import load_recipe
from engine.routine.optimizers import adamw, sgd
from engine.routine.routine import Routine
from engine.step.reference import step_vjp
from engine.step.step import plain_step

OPTIMIZERS = {"sgd": sgd(0.9), "adamw": adamw(eps_root=1e-8)}


def make_routine(optimizer: str, kind: str, num_steps: int) -> Routine:
    """The recipe's model and batch size on as many images as the steps read."""
    recipe = load_recipe("fashion-selection")
    count = recipe.training.batch_size * 2
    drawn = torch.Generator().manual_seed(0)
    model = build_model(
        ModelSettings.model_validate(recipe.arguments["model"]),
        (1, 28, 28),
        10,
        seed=0,
        dtype=torch.float32,
    )
    weights = ExampleWeights(torch.ones(count))
    return Routine(
        model=model,
        loss=per_example_cross_entropy,
        examples=(
            torch.rand(count, 1, 28, 28, generator=drawn),
            torch.randint(0, 10, (count,), generator=drawn),
        ),
        optimizer=OPTIMIZERS[optimizer],
        learning_rate=0.01,
        num_steps=num_steps + 1,
        batch_size=recipe.training.batch_size,
        # Counts enter at the last step only, so that the steps before it are reversed for the
        # state alone; weights enter every step.
        metaparameters={"weights": weights}
        if kind == "weights"
        else {"counts": Counts(torch.ones(count), injection_step=num_steps)},
    )


def measure(optimizer: str, kind: str, rounds: int, num_steps: int) -> dict[str, float]:
    """Return the medians of plain and reversed steps, in milliseconds, and their ratio."""
    routine = make_routine(optimizer, kind, num_steps)
    z, plain, reverse = routine.point(), [], []
    with deterministic():
        for _ in range(rounds + 1):
            states = [routine.initial_state()]
            started = time.perf_counter()
            for step in range(num_steps):
                states.append(plain_step(routine, states[-1], z, step)[0])
            turned = time.perf_counter()
            adjoint = {name: torch.ones_like(row) for name, row in states[-1].items()}
            for step in reversed(range(num_steps)):
                adjoint, _ = step_vjp(routine, states[step], z, step, adjoint)
            ended = time.perf_counter()
            plain.append((turned - started) / num_steps)
            reverse.append((ended - turned) / num_steps)
    ratios = [r / p for p, r in zip(plain[1:], reverse[1:], strict=True)]  # the first warms up
    return {
        "plain_ms": 1e3 * statistics.median(plain[1:]),
        "reverse_ms": 1e3 * statistics.median(reverse[1:]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> None:
    """Print one JSON line for each optimizer and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    keep_freed_memory()
    print(json.dumps({"machine": platform.platform(), **environment()}))  # noqa: T201
    for optimizer in OPTIMIZERS:
        for kind in ("weights", "counts"):
            found = measure(optimizer, kind, arguments.rounds, arguments.steps)
            print(json.dumps({"optimizer": optimizer, "kind": kind, **found}))  # noqa: T201


if __name__ == "__main__":
    main()
