"""How fast rows are written and read, and what writing them costs a forward sweep.

Questions: does the store write and read as fast as ``torch.save`` and ``torch.load`` on the same
disk (goal: yes)? By how much is a forward sweep longer that saves every ``--every`` steps in the
background (goal: 1.05 at most) or at once? Counted besides time: bytes. All contestants take turns,
medians. The fingerprint alone is shown too: it is what ``torch.save`` does not do.

    python tests/bench/bench_store.py [--folder /tmp] [--rounds 7] [--every 4] [--threads 2]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.numerics.determinism import deterministic
from engine.numerics.environment import environment
from engine.numerics.fingerprint import state_fingerprint
from engine.numerics.process import keep_freed_memory
from engine.step.step import plain_step
from engine.storage.background import BackgroundStates
from engine.storage.states import RowStore, StateStore
from engine.types import State

NUM_STEPS = 24


def state_of(megabytes: int) -> State:
    """An Adam state of about that size."""
    size = megabytes * 1_000_000 // 12
    return {name: torch.randn(size) for name in ("params", "exp_avg", "exp_avg_sq")}


def open_store(folder: str, state: State, num_rows: int) -> RowStore:
    layout = {name: (len(row), row.dtype) for name, row in state.items()}
    return RowStore.create(folder, layout, num_rows, attributes={})


def measure_rows(megabytes: int, rounds: int, folder: Path) -> dict[str, float]:
    """Return GB/s of each way to write and read a state."""
    state = state_of(megabytes)
    size = sum(row.numel() * row.element_size() for row in state.values())
    store = open_store(str(folder / f"rows-{megabytes}"), state, rounds + 1)
    file = folder / "state.pt"
    ways: dict[str, Callable[[int], object]] = {
        "store_save": lambda turn: store.save(turn, state),
        "torch_save": lambda turn: torch.save(state, f"{file}{turn}"),
        "store_load": lambda turn: store.load(turn),
        "torch_load": lambda turn: torch.load(f"{file}{turn}"),
        "fingerprint": lambda turn: state_fingerprint(state),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way(turn)
            seconds[name].append(time.perf_counter() - started)
    return {name: size / 1e9 / statistics.median(found[1:]) for name, found in seconds.items()}


def make_routine() -> engine.Routine:
    """A step of some 100 ms with a state of 13 MB, as the GPT of the comparison has."""
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(2048, 512, generator=drawn)
    labels = torch.randint(0, 10, (2048,), generator=drawn)
    model = nn.Sequential(nn.Linear(512, 1024), nn.GELU(), nn.Linear(1024, 512), nn.Linear(512, 10))
    return engine.Routine(
        model,
        lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
        (inputs, labels),
        engine.adamw(),
        learning_rate=1e-3,
        num_steps=NUM_STEPS,
        batch_size=2048,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(2048))},
    )


def sweep(routine: engine.Routine, store: StateStore | None, every: int) -> float:
    """Train all steps, save one state in ``every``; return the seconds of the steps and saves."""
    state, z = routine.initial_state(), routine.point()
    started = time.perf_counter()
    for step in range(NUM_STEPS):
        if store is not None and step % every == 0:
            store.save(step, state)
        state, _ = plain_step(routine, state, z, step)
    return time.perf_counter() - started


def measure_sweeps(rounds: int, every: int, threads: int, folder: Path) -> dict[str, float]:
    """Return seconds of a sweep that saves nothing, at once and in the background, and ratios."""
    routine = make_routine()
    seconds: dict[str, list[float]] = {"none": [], "at_once": [], "background": []}
    with deterministic(threads):
        for turn in range(rounds + 1):
            rows = [
                open_store(str(folder / f"{name}-{turn}"), routine.initial_state(), NUM_STEPS)
                for name in ("at_once", "background")
            ]
            seconds["none"].append(sweep(routine, None, every))
            seconds["at_once"].append(sweep(routine, rows[0], every))
            with BackgroundStates(rows[1]) as states:
                seconds["background"].append(sweep(routine, states, every))
    ratios = {
        f"{name}_ratio": statistics.median(
            found / plain
            for found, plain in zip(seconds[name][1:], seconds["none"][1:], strict=True)
        )
        for name in ("at_once", "background")
    }
    return {name: statistics.median(found[1:]) for name, found in seconds.items()} | ratios


def main() -> None:
    """Print one JSON line for each size of state, and one for the sweeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    keep_freed_memory()
    machine = {"machine": platform.platform(), "load": os.getloadavg(), **environment()}
    print(json.dumps(machine))  # noqa: T201
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for megabytes in (10, 120):
            found = measure_rows(megabytes, arguments.rounds, Path(folder))
            print(json.dumps({"state_MB": megabytes, "unit": "GB/s", **found}))  # noqa: T201
        found = measure_sweeps(arguments.rounds, arguments.every, arguments.threads, Path(folder))
        print(json.dumps({"steps": NUM_STEPS, "every": arguments.every, **found}))  # noqa: T201


if __name__ == "__main__":
    main()
