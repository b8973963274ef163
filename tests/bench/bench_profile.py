"""Where the time of a metagradient goes: matrix products and convolutions against all the rest.

Question: how low can the time go on this CPU without faster matrix products? Each phase of a step
(plain; with its graph; the pull through that graph) is timed eager and compiled, in turns, medians,
and profiled once; what its matrix products and convolutions take alone bounds it from below. The
memory of one kept graph is there too.

    python -m tests.bench.bench_profile [--problem gpt|resnet] [--rounds 7] [--threads 2] [--record]
"""

import argparse
import ctypes
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.recipes.replay import StepPath
from engine.routine.routine import Routine
from engine.step.step import open_step, plain_step
from tests.bench.record import write_record
from tests.bench.rivals.contender_ours import lay_out
from tests.bench.rivals.problems import Problem, write
from tests.bench.rivals.protocol import Task
from tests.bench.rivals.torch_task import TorchProblem

PRODUCTS = {
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_convolution",
    "aten::convolution_backward", "aten::_mkl_linear", "mkldnn::_linear_pointwise",
    "mkldnn::_convolution_pointwise",
}  # fmt: skip
PHASES = ("plain", "graph", "pull")


class Phases:
    """The phases of one step of a routine, each to be called by itself."""

    def __init__(self, routine: Routine) -> None:
        self.routine, self.state = routine, routine.initial_state()
        self.z = {n: value.detach().requires_grad_() for n, value in routine.point().items()}
        drawn = torch.Generator().manual_seed(0)
        self.cotangent = {
            name: torch.randn(row.shape, generator=drawn) for name, row in self.state.items()
        }

    def plain(self) -> None:
        """Train the step."""
        plain_step(self.routine, self.state, self.routine.point(), 1)

    def graph(self) -> Any:
        """Train the step with its graph."""
        return open_step(self.routine, self.state, self.z, 1)

    def pull(self, graph: Any) -> None:
        """Pull a cotangent back through a kept graph."""
        graph.pull(self.cotangent)

    def calls(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield each phase and a call of it, in the order in which they are made."""
        yield "plain", self.plain
        yield "graph", self.graph
        kept = self.graph()
        yield "pull", lambda: self.pull(kept)


def seconds(ways: dict[str, Phases], rounds: int) -> dict[tuple[str, str], float]:
    """Return the median seconds of each phase of each way; the ways alternate."""
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for way, phases in ways.items():
            for phase, call in phases.calls():
                started = time.perf_counter()
                call()
                if turn:
                    taken.setdefault((way, phase), []).append(time.perf_counter() - started)
    return {key: statistics.median(found) for key, found in taken.items()}


def product_shares(phases: Phases, rounds: int) -> dict[str, float]:
    """Return the share of matrix products and convolutions in the time of each phase."""
    shares: dict[str, list[float]] = {}
    for _ in range(rounds):
        for phase, call in phases.calls():
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                call()
            events = profiled.key_averages()
            products = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS)
            total = sum(event.self_cpu_time_total for event in events)
            shares.setdefault(phase, []).append(products / total)
    return {phase: statistics.median(found) for phase, found in shares.items()}


def graph_megabytes(phases: Phases, number: int = 6) -> float:
    """Return the resident memory that each kept graph adds."""
    graphs = [phases.graph()]  # the first one takes what earlier steps have freed
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _resident()
    graphs += [phases.graph() for _ in range(number)]
    return (_resident() - before) / number


def _resident() -> float:
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def measure(size: str, rounds: int, threads: int, folder: Path) -> list[str]:
    """Measure one problem; return the lines of its table."""
    place = folder / size
    write(Problem(size, "adamw", 8), place)
    options = {"threads": threads, "device": "cpu", "precision": "float32"}
    routine, _ = lay_out(TorchProblem(Task(place, options)))
    routine = replace(routine, path=StepPath.GRAPH)
    with deterministic(threads):
        ways = {
            "plain path": Phases(replace(routine, path=StepPath.PLAIN)),
            "eager": Phases(routine),
            "compiled": Phases(replace(routine, compile=True)),
        }
        taken = seconds(ways, rounds)
        products = {way: product_shares(ways[way], rounds) for way in ("eager", "compiled")}
        memory = {way: graph_megabytes(ways[way]) for way in ("eager", "compiled")}
    unit = taken["plain path", "plain"]
    lines = [
        f"## {size}: a plain step takes {unit * 1e3:.0f} ms",
        "",
        "| what | " + " | ".join(PHASES) + " | a metagradient's step | a kept graph (MB) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way in ("eager", "compiled"):
        whole = [taken[way, phase] / unit for phase in PHASES]
        alone = [products[way][phase] * taken[way, phase] / unit for phase in PHASES]
        lines += [
            _line(way, whole, f"{memory[way]:.0f}"),
            _line(f"{way}: products and convolutions alone", alone, ""),
        ]
    return [*lines, ""]


def _line(label: str, phases: list[float], memory: str) -> str:
    # The forward sweep, the replay that keeps its graph, and the pull.
    whole = phases[0] + phases[1] + phases[2]
    numbers = [*phases, whole]
    return f"| {label} | " + " | ".join(f"{number:.2f}" for number in numbers) + f" | {memory} |"


def main() -> None:
    """Print the tables, and write them to a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", action="append", choices=("gpt", "resnet"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    lines = [
        "Question: how low can a metagradient's time go on this CPU without faster products?",
        f"{arguments.threads} threads, {arguments.rounds} rounds, medians; times in plain steps.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.problem or ("gpt", "resnet"):
            lines += measure(size, arguments.rounds, arguments.threads, Path(folder))
    print("\n".join(lines))  # noqa: T201
    if arguments.record:
        command = f"python -m tests.bench.bench_profile --rounds {arguments.rounds} --record"
        date = datetime.now(UTC).strftime("%Y%m%d")
        title = "Where the time of a metagradient goes"
        write_record("profile", title, command, lines, date, arguments.threads)


if __name__ == "__main__":
    main()
