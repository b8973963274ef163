"""What the product of a step costs by each mode, for a ResNet and a small GPT.

Question: how many plain steps does one product cost, eager by reverse over reverse and forward
over reverse, and compiled; at what error against float64, and at what peak memory? The compiled
plain step is there too. Modes alternate, several rounds, medians; random data of the real shapes.

    python tests/bench/bench_step.py [--problem resnet|gpt] [--rounds 5] [--compile] [--threads 1]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.metaparameters.weights import ExampleWeights
from engine.models.build import build_model
from engine.models.chunked_cross_entropy import sequence_cross_entropy
from engine.models.losses import per_example_cross_entropy
from engine.numerics.determinism import deterministic
from engine.numerics.environment import environment
from engine.numerics.process import keep_freed_memory
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.files import load_recipe
from engine.routine.optimizers import adamw
from engine.routine.routine import Routine
from engine.step.by_name import make_vjp
from engine.step.reference import StepVjp, step_vjp
from engine.step.step import plain_step
from engine.types import State
from tests.helpers.machine.memory import PeakMemory

MODES = {
    "reverse-over-reverse": ("reverse-over-reverse", None),
    "reverse-over-reverse, quarter batches": ("reverse-over-reverse", 4),
    "forward-over-reverse": ("forward-over-reverse", None),
    "forward-over-reverse, quarter batches": ("forward-over-reverse", 4),
}


class Block(nn.Module):
    """Causal attention and a feed-forward net, each behind a layer normalization."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, width) to the same shape."""
        batch, tokens, width = x.shape
        parts = self.attend(self.before(x)).view(batch, tokens, 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(later, -1e9).softmax(-1) @ value
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.feed(self.between(x))


class Gpt(nn.Module):
    """A GPT of 0.9 M parameters; returns what its head reads."""

    def __init__(self, vocabulary: int, width: int, tokens: int, depth: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(depth)), nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        """Map (batch, tokens) to (batch, tokens, width)."""
        places = torch.arange(words.shape[1], device=words.device)
        return self.blocks(self.words(words) + self.places(places))


def gpt_loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of each sequence, with all logits at once."""
    logits = model.head(model(batch[0]))
    return functional.cross_entropy(logits.transpose(1, 2), batch[1], reduction="none").mean(1)


def chunked_gpt_loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The same, with the logits of 256 tokens at a time."""
    return sequence_cross_entropy(model(batch[0]), model.head.weight, batch[1])


def make_routine(problem: str, num_steps: int, vocabulary: int = 65) -> Routine:
    """Per-example weights and AdamW on either problem."""
    drawn = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    if problem == "resnet":
        recipe = load_recipe("fashion-selection")
        size = recipe.training.batch_size
        chosen = ModelSettings.model_validate(recipe.arguments["model"])
        model = build_model(chosen, (1, 28, 28), 10, seed=0, dtype=torch.float32)
        images = torch.rand(2 * size, 1, 28, 28, generator=drawn)
        examples = images, torch.randint(0, 10, (2 * size,), generator=drawn)
        loss = per_example_cross_entropy
    else:
        size, tokens = 16, 128
        model = Gpt(vocabulary, 128, tokens, 4)
        words = torch.randint(0, vocabulary, (2 * size, tokens + 1), generator=drawn)
        examples, loss = (words[:, :-1], words[:, 1:]), gpt_loss
    return Routine(
        model=model,
        loss=loss,
        examples=examples,
        optimizer=adamw(eps_root=1e-8),
        learning_rate=0.001,
        num_steps=num_steps,
        batch_size=size,
        metaparameters={"weights": ExampleWeights(torch.ones(2 * size))},
    )


def in_double(routine: Routine) -> Routine:
    """The float64 twin of a routine."""
    columns = tuple(c.double() if c.is_floating_point() else c for c in routine.examples)
    weights = ExampleWeights(routine.point()["weights"].double())
    model = routine.model.double()
    twin = replace(routine, model=model, examples=columns, metaparameters={"weights": weights})
    routine.model.float()
    return twin


def timed(function: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def error(found: tuple[State, State], expected: tuple[State, State]) -> float:
    """Largest relative error of adjoint and share, against float64."""
    pairs = [
        (a[name].double(), b[name]) for a, b in zip(found, expected, strict=True) for name in b
    ]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def measure(problem: str, rounds: int, *, with_compiler: bool) -> None:
    """Print one JSON line for each mode."""
    routine, last = make_routine(problem, 8), 4
    z, states = routine.point(), [routine.initial_state()]
    for step in range(last + 1):
        states.append(plain_step(routine, states[-1], z, step)[0])
    drawn = torch.Generator().manual_seed(1)
    cotangent = {n: torch.randn(len(row), generator=drawn) for n, row in states[0].items()}
    ways: dict[str, StepVjp] = {}
    for name, (mode, parts) in MODES.items():
        ways[name] = make_vjp(mode, micro_batch=parts and routine.batch_size // parts)
    if with_compiler:
        ways["compiled"] = make_vjp("compiled")
    twin = in_double(routine)
    expected = step_vjp(
        twin,
        {name: row.double() for name, row in states[last - 1].items()},
        twin.point(),
        last - 1,
        {name: row.double() for name, row in cotangent.items()},
    )
    runs: dict[str, Callable[[], float]] = {
        "plain step": partial(timed, partial(plain_step, routine, states[last], z, last))
    }
    if with_compiler:
        compiled_step = partial(plain_step, replace(routine, compile=True), states[last], z, last)
        runs["compiled plain step"] = partial(timed, compiled_step)
    first_seconds, errors, peaks = {}, {}, {}
    for name, way in ways.items():
        # Backwards from the step after, so that the guess of the gradient has its neighbour.
        first_seconds[name] = timed(partial(way, routine, states[last], z, last, cotangent))
        found = way(routine, states[last - 1], z, last - 1, cotangent)
        errors[name] = error(found, expected)
        if name != "compiled":
            way(routine, states[last], z, last, cotangent)
            with PeakMemory() as memory:
                way(routine, states[last - 1], z, last - 1, cotangent)
            peaks[name] = memory.peak / 1e6

        def pair(way: StepVjp = way) -> float:
            way(routine, states[last], z, last, cotangent)
            return timed(partial(way, routine, states[last - 1], z, last - 1, cotangent))

        runs[name] = pair
    details = {"first_call_s": first_seconds, "error": errors, "peak_mb": peaks}
    report(problem, runs, details, rounds)


def report(
    problem: str,
    runs: dict[str, Callable[[], float]],
    details: dict[str, dict[str, float]],
    rounds: int,
) -> None:
    """Time the modes in turn, and print one JSON line for each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            took = run()
            if round_:  # the first warms up
                seconds[name].append(took)
    plain = seconds["plain step"]
    for name, took in seconds.items():
        ratios = [t / p for t, p in zip(took, plain, strict=True)]
        line = {
            "problem": problem,
            "mode": name,
            "ms": 1e3 * statistics.median(took),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            **{key: of.get(name) for key, of in details.items()},
        }
        print(json.dumps(line), flush=True)  # noqa: T201


def measure_vocabulary(vocabulary: int) -> None:
    """Print peak memory of a product with all logits at once and in chunks."""
    for name, loss in (("all logits", gpt_loss), ("in chunks", chunked_gpt_loss)):
        routine = replace(make_routine("gpt", 8, vocabulary), loss=loss)
        z, state = routine.point(), routine.initial_state()
        cotangent = {n: torch.ones_like(row) for n, row in state.items()}
        for mode in ("reverse-over-reverse", "forward-over-reverse"):
            way = make_vjp(mode)
            way(routine, state, z, 0, cotangent)
            with PeakMemory() as memory:
                seconds = timed(partial(way, routine, state, z, 0, cotangent))
            line = {"vocabulary": vocabulary, "loss": name, "mode": mode}
            print(  # noqa: T201
                json.dumps({**line, "peak_mb": memory.peak / 1e6, "s": seconds}), flush=True
            )


def main() -> None:
    """Print one JSON line for each problem and mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", choices=["resnet", "gpt"], action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--vocabulary", type=int)
    arguments = parser.parse_args()
    keep_freed_memory()
    print(  # noqa: T201
        json.dumps({"machine": platform.platform(), **environment(threads=arguments.threads)})
    )
    with deterministic(arguments.threads):
        if arguments.vocabulary:
            measure_vocabulary(arguments.vocabulary)
            return
        for problem in arguments.problem or ["resnet", "gpt"]:
            measure(problem, arguments.rounds, with_compiler=arguments.compile)


if __name__ == "__main__":
    main()
