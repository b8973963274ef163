"""What attention with a blocked second derivative costs beside torch's math kernel.

Questions: time and memory of a value, its gradient and the derivative of that gradient at 512 to
4,096 tokens (four heads of 32, causal and not). Times are seconds of CPU of one thread, medians,
alternating; memory is the growth of a process that does nothing else, beyond what importing torch
once took.

    python -m tests.bench.bench_attention --date 20261128 [--rounds 3]
"""

import argparse
import math
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.models import attention as fused
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from tests.bench.bench_witness import medians
from tests.bench.record import write_record

SIZES = (512, 1024, 2048, 4096)


def twice(tokens: int, *, is_causal: bool) -> Callable[[], object]:
    """Return a call of value, gradient and derivative of the gradient."""
    drawn = torch.Generator().manual_seed(0)
    shape = (1, 4, tokens, 32)
    given = [torch.randn(shape, generator=drawn).requires_grad_() for _ in range(3)]
    weights = [torch.randn(shape, generator=drawn) for _ in range(4)]

    def call() -> Sequence[Tensor]:
        out = fused.attention(*given, is_causal=is_causal)
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


def megabytes(kind: str, tokens: int, *, is_causal: bool) -> float:
    """Return by how much a process grows that makes one call."""
    command = [sys.executable, "-m", "tests.bench.bench_attention", "--date", "0", "--one", kind]
    command += [str(tokens), str(int(is_causal))]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout)


def grown(kind: str, tokens: int, is_causal: bool) -> float:
    """Make a small call and one of the size asked for, and return the growth by the second."""
    wrap = by_math if kind == "math" else lambda call: call
    with deterministic(1):
        wrap(twice(256, is_causal=is_causal))()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wrap(twice(tokens, is_causal=is_causal))()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Write the record, or print what one process grows by."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3)
    arguments = parser.parse_args()
    if arguments.one:
        kind, tokens, is_causal = arguments.one
        sys.stdout.write(f"{grown(kind, int(tokens), bool(int(is_causal)))}\n")
        return
    keep_freed_memory()
    cases = [(is_causal, tokens) for is_causal in (True, False) for tokens in SIZES]
    # First, because a process begins with the largest size that its parent had.
    memory = {
        case: [megabytes(kind, case[1], is_causal=case[0]) for kind in ("ours", "math")]
        for case in cases
    }
    lines = [
        "| tokens | causal | ours, s | math, s | time | ours, MB | math, MB | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with deterministic(1):
        for is_causal, tokens in cases:
            call = twice(tokens, is_causal=is_causal)
            took = medians({"ours": call, "math": by_math(call)}, arguments.rounds)
            ours, theirs = memory[is_causal, tokens]
            share = f"{ours / theirs:.2f}" if theirs else ""
            lines.append(
                f"| {tokens} | {'yes' if is_causal else 'no'} | {took['ours']:.3f} | "
                f"{took['math']:.3f} | {took['ours'] / took['math']:.2f} | {ours:.0f} | "
                f"{theirs:.0f} | {share} |"
            )
    command = f"python -m tests.bench.bench_attention --date {arguments.date}"
    write_record("attention", "What attention costs", command, lines, arguments.date)


if __name__ == "__main__":
    main()
