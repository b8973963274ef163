"""All figures of speed in one record: steps, batches of runs, rows, outputs, programs, starts.

Each figure is a ratio within one run: contestants alternate, medians; seconds of CPU of one thread,
which other work on the machine disturbs least, and wall clock for what starts processes. Parts:

small     training step, metagradient with all states and by the k-ary tree, over a loop of torch,
          eager and compiled
together  1,000 one-cycle trainings of the digits' MLP, an LDS bank, seeds and smoothness directions
          as batched runs, over such loops
          and metasmoothness by batched trainings over single ones
rows      rows of 10 MB written and read, over ``torch.save`` and ``torch.load``
outputs   K = 8 outputs over one, one after the other and in one pass (MLP and GPT)
basis     error of a held-out query against the number of swept directions
programs  a compiled metagradient in a first and in a second process
attention value, gradient and its derivative, over torch's math kernel
start     ``mgd run`` until the first training is committed, whole, and started again
rivals    whole metagradients of the GPT beside bergson's, whose Python RIVALS_BERGSON_PYTHON names

More of attention shows ``bench_attention``, and more of whoever competes ``tests.bench.rivals``.

    python -m tests.bench.bench_speed --date 20261128 [--rounds 5] [--parts small,rows]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.replay.query_basis import query_basis
from tests.bench import banks, bench_attention, bench_outputs
from tests.bench.bench_start import surroundings
from tests.bench.bench_step import Gpt, gpt_loss
from tests.bench.bench_store import measure_rows
from tests.bench.bench_witness import medians
from tests.bench.record import write_record
from tests.bench.rivals import __main__ as rivals_command
from tests.bench.rivals.problems import Problem
from tests.bench.rivals.results import ratio, relative_error

Row = tuple[str, str, str]
"""Figure, what was measured, what was asked."""

STEPS, BATCH, RATE = 200, 100, 0.05

OUTPUT_STEPS = 40
"""T of runs with several outputs: two products are compared with others, whatever T."""


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def loss(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def points(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(number, 64, generator=drawn)
    return inputs, torch.randint(0, 10, (number,), generator=drawn)


def plain(steps: int, rates: Callable[[int], float]) -> None:
    """Train as a script does."""
    model, (inputs, labels) = net(), points(800)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    drawn = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rates(step)
        rows = torch.randint(0, 800, (BATCH,), generator=drawn)
        optimizer.zero_grad()
        loss(model, (inputs[rows], labels[rows])).mean().backward()
        optimizer.step()


def routine(steps: int, **changes: object) -> engine.Routine:
    settings = {"w": engine.ExampleWeights(torch.ones(800))}
    given: dict[str, Any] = {"metaparameters": settings, "learning_rate": RATE} | changes
    return engine.Routine(
        net(), loss, points(800), engine.sgd(0.9), num_steps=steps, batch_size=BATCH, **given
    )


def small(rounds: int) -> list[Row]:
    own, compiled = routine(STEPS), routine(STEPS, compile=True)

    def output(model: nn.Module) -> torch.Tensor:
        return loss(model, points(800)).mean()

    found = medians(
        {
            "plain": lambda: plain(STEPS, lambda _: RATE),
            "step": lambda: engine.train(own),
            "all": lambda: engine.metagradient(own, output, schedule="store-all"),
            "tree": lambda: engine.metagradient(own, output),
            "step, compiled": lambda: engine.train(compiled),
            "all, compiled": lambda: engine.metagradient(
                compiled, output, schedule="store-all", vjp="compiled"
            ),
            "tree, compiled": lambda: engine.metagradient(compiled, output, vjp="compiled"),
        },
        rounds,
    )
    over = {name: f"{seconds / found['plain']:.2f}" for name, seconds in found.items()}
    words = {
        "step": ("training step over plain torch, MLP 64-64-64-10, batch 100, T = 200", "1.15"),
        "all": ("metagradient with all states, in plain trainings", "4.3"),
        "tree": ("the same by the k-ary tree", "6.5"),
    }
    return [
        (said + way, over[name + way], goal)
        for way in ("", ", compiled")
        for name, (said, goal) in words.items()
    ]


def together(rounds: int, runs: int = 1000) -> list[Row]:
    """Train banks as batched runs, and some of each by a loop of torch; compare the states too."""
    found = []
    made = (banks.grid(runs), banks.removals(), banks.orders(), banks.directions())
    for bank, goal in zip(made, ("0.15", "", "", ""), strict=True):
        some = range(0, len(bank.points), max(1, len(bank.points) // 20))
        seconds = medians(
            {
                "plain": lambda bank=bank, some=some: [bank.by_torch(i) for i in some],
                "ours": bank.together,
            },
            rounds,
        )
        plain, ours = seconds["plain"] / len(some), seconds["ours"] / len(bank.points)
        error = bank.error(bank.together(), some)
        words = (
            f"{ours / plain:.2f} ({1 / ours:.0f} a second, of {1 / plain:.0f}; off by {error:.0e})"
        )
        found.append((f"{len(bank.points):,} {bank.words}, over a plain loop", words, goal))
    return [*found, banks.measured(rounds)]


def rows(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        found = measure_rows(10, 2 * rounds, Path(folder))
    pairs = (
        ("write", "store_save", "torch_save", "0.9"),
        ("read", "store_load", "torch_load", "0.5"),
    )
    return [
        (
            f"rows of 10 MB, {name}, over torch",
            f"{found[ours] / found[theirs]:.2f} ({found[ours]:.2f} of {found[theirs]:.2f} GB/s)",
            goal,
        )
        for name, ours, theirs, goal in pairs
    ]


def small_gpt() -> engine.Routine:
    """Return a run of a GPT of two blocks of width 64, batch 8."""
    drawn = torch.Generator().manual_seed(0)
    words = torch.randint(0, 65, (40, 33), generator=drawn)
    return engine.Routine(
        Gpt(65, 64, 32, 2),
        gpt_loss,
        (words[:, :-1], words[:, 1:]),
        engine.adamw(),
        learning_rate=1e-3,
        num_steps=OUTPUT_STEPS,
        batch_size=8,
        metaparameters={"w": engine.ExampleWeights(torch.ones(40))},
    )


def outputs(rounds: int) -> list[Row]:
    found = []
    for name, own in (("MLP", routine(OUTPUT_STEPS)), ("a GPT of 32 tokens", small_gpt())):
        eight = bench_outputs.make_outputs(own, 8)

        def call(number: int, vjp: str, own: engine.Routine = own, eight: list = eight) -> object:
            options = {"schedule": "store-all", "vjp": vjp, "witness": False}
            return engine.metagradients(own, eight[:number], **options)

        seconds = medians(
            {
                "one": lambda: call(1, "reverse-over-reverse"),
                "loop": lambda: call(8, "reverse-over-reverse"),
                "pass": lambda: call(8, "batched"),
            },
            rounds,
        )
        for way, words in (("loop", "one after the other"), ("pass", "in one pass")):
            ratio = f"{seconds[way] / seconds['one']:.2f}"
            found.append((f"K = 8 outputs over one, {name}, {words}", ratio, "3.5"))
    return found


def basis(rounds: int) -> list[Row]:
    del rounds
    own, (inputs, labels) = routine(60), points(900)

    def mean(start: int, stop: int) -> Callable[[nn.Module], torch.Tensor]:
        batch = inputs[start:stop], labels[start:stop]
        return lambda model: loss(model, batch).mean()

    with deterministic(1):
        known = [mean(start, start + 20) for start in range(0, 640, 20)]
        made, query = query_basis(own, known, vjp="batched"), mean(300, 340)
        other = mean(800, 900)
    found = []
    for words, asked in (("of examples that the outputs cover", query), ("of others", other)):
        exact = engine.metagradient(own, asked, witness=False)["w"]
        errors = []
        for size in (1, 4, 16, len(made)):
            guess = made.query(asked, size)
            off = float((guess["w"] - exact).norm() / exact.norm())
            errors.append(f"K = {size}: {off:.2g} ({guess.outside:.2g} outside)")
        found.append(
            (f"relative error of a query {words}, 32 outputs swept", "; ".join(errors), "")
        )
    return found


_COMPILED = """
import resource, sys, torch, engine
from tests.bench.bench_step import make_routine
from tests.bench.bench_outputs import make_outputs
own = make_routine("gpt", 2)
(output,) = make_outputs(own, 1)
engine.metagradient(own, output, vjp="compiled", witness=False)
"""


def programs(rounds: int) -> list[Row]:
    del rounds
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for words, vjp in (("first", "compiled"), ("second", "compiled"), ("no", "batched")):
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}
            code = _COMPILED.replace("compiled", vjp)
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            after, took = (
                resource.getrusage(resource.RUSAGE_CHILDREN),
                time.perf_counter() - started,
            )
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found.append((words, cpu, took))
    (_, eager, eager_wall) = found.pop()
    return [
        (
            f"compiling the product of the GPT, {words} process, beyond an eager one",
            f"{cpu - eager:.0f} s of CPU, {took - eager_wall:.0f} s",
            "8 s" if words == "second" else "",
        )
        for words, cpu, took in found
    ]


def start(rounds: int) -> list[Row]:
    """Run the main job twice in a new store, on a server whose database is there."""
    del rounds
    found = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = Path(folder) / "store"
        environment = surroundings(Path(folder) / "home")
        command = [sys.executable, "-m", "flows.cli.app", "run", "digits-selection"]
        warm = [*command, "--set", "outer.num_steps=1", "--store", str(Path(folder) / "first")]
        subprocess.run(warm, check=True, env=environment, capture_output=True)
        for words, goal in (("whole main job", "16 s"), ("finished run again", "6 s")):
            began, started = time.time(), time.perf_counter()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = [*command, "--store", str(store)]
            subprocess.run(done, check=True, env=environment, capture_output=True)
            took, after = (
                time.perf_counter() - started,
                resource.getrusage(resource.RUSAGE_CHILDREN),
            )
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if not found:
                records = store.glob("stages/train/*/record.json")
                first = min(each.stat().st_mtime for each in records) - began
                found.append(
                    ("`mgd run` until the first training is committed", f"{first:.0f} s", "5 s")
                )
            found.append((words, f"{took:.0f} s, of which {cpu:.0f} s of CPU", goal))
    return found


def attention(rounds: int) -> list[Row]:
    """Compare value, gradient and its derivative with torch's math kernel, causal."""
    found, sizes = [], (2048, 4096)
    grown = {
        (kind, tokens): bench_attention.megabytes(kind, tokens, is_causal=True)
        for tokens in sizes
        for kind in ("ours", "math")
    }
    with deterministic(1):
        for tokens, goal in zip(sizes, ("0.65; 0.15", "0.40; 0.08"), strict=True):
            call = bench_attention.twice(tokens, is_causal=True)
            took = medians({"ours": call, "math": bench_attention.by_math(call)}, min(rounds, 3))
            memory = grown["ours", tokens] / grown["math", tokens]
            words = f"{took['ours'] / took['math']:.2f}; {memory:.2f}"
            found.append((f"attention of {tokens:,} tokens over math: time; memory", words, goal))
    return found


def rivals(rounds: int) -> list[Row]:
    """Compare whole metagradients of the GPT with bergson's, which has a Python of its own."""
    theirs = "bergson, sqrt"
    modes = {
        "ours, store-all, compiled product": "0.80 at no more memory",
        "ours, sqrt(T) graphs, compiled": "0.60",
    }
    given = [f"--rounds={min(rounds, 2)}", *(f"--only={label}" for label in (theirs, *modes))]
    arguments = rivals_command.read_arguments(given)
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem("gpt", "adamw", arguments.steps)
        rows, expected, _ = rivals_command.compared(problem, Path(folder), arguments)
    by_label, found = {row.label: row for row in rows}, []
    bergson = by_label[theirs]
    for label, goal in modes.items():
        row = by_label[label]
        share = ratio(row.seconds("whole"), bergson.seconds("whole"))
        if share is None or row.growth is None or bergson.growth is None:
            words = f"not measured: {row.reason or bergson.reason}"
        else:
            sizes = f"{row.growth / 1e6:.0f} MB of {bergson.growth / 1e6:.0f}"
            words = f"{share:.2f} ({sizes})"
        if expected is not None and row.gradient is not None:
            words += f", off by {relative_error(row.gradient, expected):.0e}"
        figure = f"GPT, T = {arguments.steps}, {label.removeprefix('ours, ')}, over bergson"
        found.append((figure, words, goal))
    return found


PARTS = {
    each.__name__: each
    for each in (small, together, rows, outputs, basis, attention, programs, start, rivals)
}


def main() -> None:
    """Measure the parts, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS))
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    lines = ["| figure | measured | asked | load |", "| --- | --- | --- | --- |"]
    for name in arguments.parts.split(","):
        for figure, measured, asked in PARTS[name](arguments.rounds):
            lines.append(f"| {figure} | {measured} | {asked} | {os.getloadavg()[0]:.1f} |")
            print(lines[-1], flush=True)  # noqa: T201
    command = "python -m tests.bench.bench_speed"
    command += f" --date {arguments.date} --rounds {arguments.rounds}"
    if arguments.parts != ",".join(PARTS):
        command += f" --parts {arguments.parts}"
    write_record(
        "speed", "What steps, batches, rows and starts cost", command, lines, arguments.date
    )


if __name__ == "__main__":
    main()
