"""What the checks of one metagradient compute, as a tree: each call by what asked for it.

Question: which gradient, evaluation or update is made twice? A call of ``engine.metagradient`` is
watched (``sys.setprofile``) while it makes its checks; what each function of the checks took, and
how often the loss, the output, a backward pass and the optimizer's update were called in it, is
written as a tree. Seconds are CPU of one thread, by the median of a plain step.

    python -m tests.bench.bench_checks --date 20261129 [--problem gpt4|gpt|resnet|mlp]
"""

import argparse
import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FrameType

import torch
from torch.nn.functional import cross_entropy

import engine
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.replay import metagradient, seeding
from engine.replay.refusals import first_step, later_steps, parameters_read
from engine.routine.module.held_module import HeldModule
from engine.routine.routine import Routine
from engine.step import nonfinite, pulls
from engine.step.step import StepGraph, plain_step
from engine.types import Output
from engine.witness import (
    draws,
    finite_differences,
    in_place,
    output_slope,
    outputs,
    precision,
    repeated,
    witness,
)
from engine.witness.cuts import asked, changed
from engine.witness.derivatives import curvature, entries, jumps, moved_statistics, updates
from engine.witness.memory import disturbed
from tests.bench.bench_outputs import make_outputs
from tests.bench.bench_speed import loss, points
from tests.bench.bench_speed import routine as small_routine
from tests.bench.bench_step import Gpt, gpt_loss, make_routine
from tests.bench.bench_witness import medians
from tests.bench.record import write_record

MODULES = (
    *(
        first_step,
        later_steps,
        metagradient,
        nonfinite,
        seeding,
        parameters_read,
        witness,
        curvature,
        draws,
    ),
    *(entries, finite_differences, in_place, jumps, moved_statistics, output_slope, outputs),
    *(precision, repeated, updates, asked, changed, disturbed),
)
"""Those whose functions are branches of the tree."""

LEFT_OUT = {"differentiate", "carry_out", "metagradient", "relative", "directions", "_shifted"}
"""Functions that would only be one more level, or are called for every number."""


@dataclass
class Branch:
    """A function of the checks, and what was called in it."""

    name: str
    seconds: float = 0.0
    calls: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    inner: dict[str, "Branch"] = field(default_factory=dict)


def watched_codes() -> dict[CodeType, str]:
    """Return the code of each function that is a branch, by its name."""
    found: dict[CodeType, str] = {}
    for module in MODULES:
        for name, value in vars(module).items():
            members = [(name, value)]
            if inspect.isclass(value):
                members = [(f"{name}.{key}", each) for key, each in vars(value).items()]
            for label, each in members:
                code = getattr(inspect.unwrap(each), "__code__", None) if callable(each) else None
                own = getattr(each, "__module__", "") == module.__name__
                if code is not None and own and label not in LEFT_OUT:
                    found[code] = label
    found[StepGraph.pull.__code__] = "StepGraph.pull"
    return found


def counted_codes() -> dict[CodeType, Callable[[FrameType], str]]:
    """Return the code of what is counted, and what it is counted as."""

    def kind(frame: FrameType) -> str:
        return "loss" if frame.f_locals["training"] else "output"

    return {
        HeldModule.call.__code__: kind,
        torch.autograd.grad.__code__: lambda frame: "backward",
        torch.autograd.backward.__code__: lambda frame: "backward",
        pulls.pull.__code__: lambda frame: "backward",
        pulls.pull_through_every_node.__code__: lambda frame: "backward",
        pulls.gradient_of.__code__: lambda frame: "backward",
        Routine.update.__code__: lambda frame: "update",
    }


class Watch:
    """Makes the tree of what is called inside the block."""

    def __init__(self) -> None:
        self.root = Branch("engine.metagradient, its checks")
        self._stack: list[tuple[FrameType, Branch, float]] = []
        self._codes, self._counted = watched_codes(), counted_codes()

    def __enter__(self) -> "Watch":
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self._begin(frame)
        elif event == "return" and self._stack and self._stack[-1][0] is frame:
            _, branch, begun = self._stack.pop()
            branch.seconds += time.process_time() - begun

    def _begin(self, frame: FrameType) -> None:
        code = frame.f_code
        if code in self._counted:
            kind = self._counted[code](frame)
            for branch in (self.root, *(each for _, each, _ in self._stack)):
                branch.counts[kind] = branch.counts.get(kind, 0) + 1
        name = self._codes.get(code)
        if name is None:
            return
        above = self._stack[-1][1] if self._stack else self.root
        branch = above.inner.setdefault(name, Branch(name))
        branch.calls += 1
        self._stack.append((frame, branch, time.process_time()))


def lines_of(branch: Branch, step: float, least: float, depth: int = 0) -> list[str]:
    """Return the branch and those below it that took at least so many seconds."""
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(branch.counts.items()))
    times = f" x {branch.calls}" if branch.calls > 1 else ""
    lines = [f"{'  ' * depth}{branch.name}{times}: {branch.seconds / step:.2f} ({counts or '-'})"]
    for each in branch.inner.values():
        if each.seconds >= least:
            lines += lines_of(each, step, least, depth + 1)
    return lines


def problems(name: str) -> tuple[Routine, Output]:
    """Return a routine and an output."""
    if name == "mlp":
        return small_routine(200), lambda model: loss(model, points(800)).mean()
    if name == "gpt4":
        return small_gpt(), held_out_loss
    made = make_routine(name, 36)
    return made, make_outputs(made, 1)[0]


def small_gpt() -> Routine:
    """Return the GPT of 0.9 M parameters, T = 24, batches of 4 texts."""
    drawn = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    words = torch.randint(0, 65, (64, 129), generator=drawn)
    return Routine(
        Gpt(65, 128, 128, 4),
        gpt_loss,
        (words[:, :-1], words[:, 1:]),
        engine.adamw(eps_root=1e-8),
        learning_rate=1e-3,
        num_steps=24,
        batch_size=4,
        metaparameters={"w": engine.ExampleWeights(torch.ones(64))},
    )


def held_out_loss(model: torch.nn.Module) -> torch.Tensor:
    """Return the mean loss of eight texts, as an output of somebody's own."""
    words = torch.randint(0, 65, (8, 129), generator=torch.Generator().manual_seed(1))
    logits = model.head(model(words[:, :-1]))  # pyright: ignore[reportCallIssue] (a module)
    return cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())


def measured(name: str) -> list[str]:
    """Return the tree of one problem."""
    routine, output = problems(name)
    z, state = routine.point(), routine.initial_state()
    units = medians(
        {
            "step": lambda: plain_step(routine, state, z, 0),
            "evaluation": lambda: routine.evaluate(output, state),
            "whole": lambda: engine.metagradient(routine, output, witness=False),
        },
        3,
    )
    engine.metagradient(routine, output)
    watch = Watch()
    began = time.process_time()
    with watch:
        engine.metagradient(routine, output)
    whole = time.process_time() - began
    root = watch.root
    root.seconds = sum(each.seconds for each in root.inner.values())
    step = units["step"]
    head = (
        f"{name}: a plain step {1e3 * step:.1f} ms; in plain steps an evaluation "
        f"{units['evaluation'] / step:.2f}, a metagradient without witness "
        f"{units['whole'] / step:.1f}, one with it {whole / step:.1f} (watched)"
    )
    return ["", head, "", "```", *lines_of(root, step, 0.02 * step), "```"]


def main() -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--problem", action="append", choices=["mlp", "gpt4", "gpt", "resnet"])
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    chosen = arguments.problem or ["gpt4", "gpt", "resnet", "mlp"]
    with deterministic(1):
        lines = [line for name in chosen for line in measured(name)]
    print("\n".join(lines))  # noqa: T201
    command = f"python -m tests.bench.bench_checks --date {arguments.date}"
    command += "".join(f" --problem {name}" for name in arguments.problem or [])
    write_record(
        "checks", "What the checks of a metagradient compute", command, lines, arguments.date
    )


if __name__ == "__main__":
    main()
