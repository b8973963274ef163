"""A whole metagradient of models that read long sequences, beside another checkout.

Question: what does fused attention save of all that a user waits for? A GPT of 512 tokens that
calls ``scaled_dot_product_attention``, and the GPT-2 of ``transformers`` with 1,024 tokens and its
default attention, each with random numbers as texts. The checkouts take turns, each in a process of
its own that warms up with a run of two steps; seconds of computing time, medians, the peak of
memory of the whole process, and how far the metagradients are apart. A checkout that refuses fused
attention is run with torch's math kernel, as it says.

    python -m tests.bench.bench_sequences --date 20261128 --against CHECKOUT [--rounds 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from tests.bench.record import write_record

ROOT = Path(__file__).parents[2]

CHILD = """
import resource, sys, time
from contextlib import nullcontext
import numpy as np, torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn import functional as F
import engine

which, unroll, file = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
WORDS = 256


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        batch, tokens, width = x.shape
        parts = self.attend(self.before(x)).view(batch, tokens, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.feed(self.between(x))


class Gpt(nn.Module):
    def __init__(self, width, tokens, depth):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(depth)), nn.LayerNorm(width))
        self.head = nn.Linear(width, WORDS, bias=False)

    def forward(self, words):
        places = torch.arange(words.shape[1])
        return self.head(self.blocks(self.words(words) + self.places(places)))


def made():
    if which == "gpt":
        return Gpt(128, 512, 4), 512
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(n_layer=4, n_embd=128, n_head=4, n_positions=1024, vocab_size=WORDS)
    none = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False)
    return GPT2LMHeadModel(GPT2Config(**sizes, **none)), 1024


MATH = False


def loss(model, batch):
    with sdpa_kernel(SDPBackend.MATH) if MATH else nullcontext():
        found = model(batch[0])
    logits = getattr(found, "logits", found)
    lost = F.cross_entropy(logits.flatten(0, 1), batch[1].flatten(), reduction="none")
    return lost.view(batch[1].shape).mean(1)


model, tokens = made()
drawn = torch.Generator().manual_seed(0)
texts = torch.randint(0, WORDS, (48, tokens + 1), generator=drawn)
data = texts[:, :-1].contiguous(), texts[:, 1:].contiguous()


def run(steps):
    weights = engine.ExampleWeights(torch.ones(48))
    routine = engine.Routine(
        model, loss, data, engine.adamw(), learning_rate=1e-3, num_steps=steps, batch_size=4,
        metaparameters={"w": weights},
    )
    held = tuple(column[:4] for column in data)
    output = lambda net: loss(net, held).mean()
    kept = min(steps, int(unroll))
    return engine.metagradient(routine, output, schedule="store-all", unroll=kept)


try:
    run(2)
except Exception:  # a checkout that refuses fused attention says to choose this kernel
    MATH = True
    run(2)
started = time.process_time()
found = run(24)
took = time.process_time() - started
np.save(file, found["w"].numpy())
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

NAMES = {"gpt": "GPT, 512 tokens", "gpt2": "GPT-2 of transformers, 1,024 tokens"}

UNROLLS = {"no graph is kept": 1, "graphs of six steps are kept": 6}


def asked(which: str, unroll: int, checkout: Path, file: Path) -> tuple[float, float]:
    """Run one contestant; return its seconds of computing time and its peak memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, which, str(unroll), str(file)],
        check=True,
        capture_output=True,
        text=True,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
    )
    seconds, kilobytes = done.stdout.split()[-2:]
    return float(seconds), float(kilobytes) / 1e3


def main() -> None:
    """Measure both models with both checkouts, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--against", type=Path, required=True, help="checkout that is compared")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    checkouts = {"here": ROOT, "there": arguments.against.resolve()}
    lines = [
        "| model | here | there | time, here over there | memory, here and there | apart | asked |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for (which, words), (kept, unroll) in product(NAMES.items(), UNROLLS.items()):
            seconds: dict[str, list[float]] = {name: [] for name in checkouts}
            memory: dict[str, float] = {}
            for _ in range(arguments.rounds):
                for name, checkout in checkouts.items():
                    file = Path(folder) / f"{name}.npy"
                    took, memory[name] = asked(which, unroll, checkout, file)
                    seconds[name].append(took)
            ours, theirs = (np.load(Path(folder) / f"{name}.npy") for name in checkouts)
            apart = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
            here, there = (statistics.median(each) for each in seconds.values())
            lines.append(
                f"| {words}; {kept} | {here:.1f} s | {there:.1f} s | {here / there:.2f} | "
                f"{memory['here']:.0f} MB, {memory['there']:.0f} MB | {apart:.0e} | 0.6 |"
            )
            print(lines[-1], flush=True)  # noqa: T201
    theirs = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        check=True, capture_output=True, text=True, cwd=checkouts["there"],
    ).stdout.strip()  # fmt: skip
    lines += [
        "",
        f"`there` is commit {theirs}. Batches of 4, four blocks of width 128 with four heads, 24 "
        "steps of AdamW, all states kept; memory is the peak of the whole process.",
    ]
    write_record(
        "sequences",
        "Long sequences, beside another checkout",
        f"python -m tests.bench.bench_sequences --date {arguments.date} --against CHECKOUT "
        f"--rounds {arguments.rounds}",
        lines,
        arguments.date,
    )


if __name__ == "__main__":
    main()
