"""What attention with a blocked second derivative costs beside torch's math kernel.

Questions: time and memory of a value, its gradient and the derivative of that gradient at 512 to
4,096 tokens (four heads of 32, causal and not, and causal with dropout). Times are seconds of CPU
of one thread, medians, alternating; memory is the growth of a process that does nothing else,
beyond what importing torch once took.

    python -m tests.bench.bench_attention --date 20261128 [--rounds 3]
"""

import argparse
import math
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.models import attention as fused
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from tests.bench.bench_witness import medians
from tests.bench.record import write_record

SIZES = (512, 1024, 2048, 4096)


DROPOUT = 0.1


class Case(NamedTuple):
    """One attention."""

    tokens: int
    is_causal: bool
    dropout: float


CASES = [
    Case(tokens, is_causal, dropout)
    for is_causal, dropout in ((True, 0.0), (False, 0.0), (True, DROPOUT))
    for tokens in SIZES
]


def twice(case: Case) -> Callable[[], object]:
    """Return a call of value, gradient and derivative of the gradient."""
    tokens, is_causal, dropout = case
    drawn = torch.Generator().manual_seed(0)
    shape = (1, 4, tokens, 32)
    given = [torch.randn(shape, generator=drawn).requires_grad_() for _ in range(3)]
    weights = [torch.randn(shape, generator=drawn) for _ in range(4)]

    def call() -> Sequence[Tensor]:
        out = fused.attention(*given, dropout_p=dropout, is_causal=is_causal)
        slopes = torch.autograd.grad((out.tanh() * weights[0]).sum(), given, create_graph=True)
        joined = torch.stack([(s * w).sum() for s, w in zip(slopes, weights[1:], strict=True)])
        return torch.autograd.grad(joined.sum(), given)

    return call


def by_math(call: Callable[[], object]) -> Callable[[], object]:
    """Return the same call with torch's math kernel."""

    def with_math() -> object:
        before, fused.LEAST_PAIRS = fused.LEAST_PAIRS, math.inf  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return call()
        finally:
            fused.LEAST_PAIRS = before

    return with_math


def megabytes(kind: str, case: Case) -> float:
    """Return by how much a process grows that makes one call."""
    command = [sys.executable, "-m", "tests.bench.bench_attention", "--date", "0"]
    command += ["--one", kind, str(CASES.index(case))]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout)


def grown(kind: str, case: Case) -> float:
    """Make a small call and one of the size asked for, and return the growth by the second."""
    wrap = by_math if kind == "math" else lambda call: call
    with deterministic(1):
        wrap(twice(case._replace(tokens=256)))()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wrap(twice(case))()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Write the record, or print what one process grows by."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2)
    arguments = parser.parse_args()
    if arguments.one:
        kind, index = arguments.one
        sys.stdout.write(f"{grown(kind, CASES[int(index)])}\n")
        return
    keep_freed_memory()
    # First, because a process begins with the largest size that its parent had.
    memory = {case: [megabytes(kind, case) for kind in ("ours", "math")] for case in CASES}
    lines = [
        "| tokens | causal | dropout | ours, s | math, s | time | ours, MB | math, MB | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with deterministic(1):
        for case in CASES:
            call = twice(case)
            took = medians({"ours": call, "math": by_math(call)}, arguments.rounds)
            ours, theirs = memory[case]
            share = f"{ours / theirs:.2f}" if theirs else ""
            lines.append(
                f"| {case.tokens} | {'yes' if case.is_causal else 'no'} | {case.dropout:g} | "
                f"{took['ours']:.3f} | {took['math']:.3f} | {took['ours'] / took['math']:.2f} | "
                f"{ours:.0f} | {theirs:.0f} | {share} |"
            )
    command = f"python -m tests.bench.bench_attention --date {arguments.date}"
    write_record("attention", "What attention costs", command, lines, arguments.date)


if __name__ == "__main__":
    main()
