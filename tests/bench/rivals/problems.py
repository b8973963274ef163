"""The problems of the comparison, written to files that every contender reads.

Same initial values, same examples, same batches, same weights for all. Nothing of a contender is
known here; the batches are the engine's own, so that it runs as a user would run it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.rivals.models import build

SIZES: dict[str, dict[str, Any]] = {
    "gpt": {
        "model": {
            "kind": "gpt", "vocabulary": 256, "length": 128, "width": 128, "depth": 4,
            "num_heads": 4,
        },
        "batch_size": 16,
    },
    "resnet": {
        "model": {"kind": "resnet", "channels": 1, "width": 20},
        "image": 28,
        "batch_size": 64,
    },
    "gpt2-small": {
        "model": {
            "kind": "gpt", "vocabulary": 50304, "length": 512, "width": 768, "depth": 12,
            "num_heads": 12,
        },
        "batch_size": 8,
    },
    "resnet-cifar": {
        "model": {"kind": "resnet", "channels": 3, "width": 64},
        "image": 32,
        "batch_size": 512,
    },
}  # fmt: skip
"""``gpt`` has 0.9 M parameters, ``resnet`` 0.6 M; the other two are for a GPU."""

OPTIMIZERS: dict[str, dict[str, float]] = {
    "adamw": {
        "learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_root": 1e-8,
        "weight_decay": 0.01,
    },
    "sgd": {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.0},
}  # fmt: skip

NUM_HELD_OUT = 64
"""Examples of the output, a mean loss."""


@dataclass(frozen=True)
class Problem:
    """What is trained: a size of ``SIZES``, an optimizer of ``OPTIMIZERS``, T and the seed.

    Attributes:
        batch_size: Instead of that of the size, if not 0.
    """

    size: str
    optimizer: str
    num_steps: int
    seed: int = 0
    batch_size: int = 0

    @property
    def name(self) -> str:
        """Name of folder and title."""
        return f"{self.size}-{self.optimizer}-{self.num_steps}"


def write(problem: Problem, folder: Path) -> None:
    """Write ``problem.json``, ``initial.npz`` and ``data.npz``.

    Batch t holds the examples ``t B .. (t + 1) B - 1``: one epoch without shuffling, which all
    contenders can be given. Weights are drawn around 1, so that a forgotten weight shows.
    """
    size = SIZES[problem.size]
    batch_size = problem.batch_size or size["batch_size"]
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(problem.seed)
    model = build(size["model"])
    initial = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    np.savez(folder / "initial.npz", **initial)
    drawn = np.random.default_rng(problem.seed)
    count = problem.num_steps * batch_size
    make = _text if size["model"]["kind"] == "gpt" else _images
    inputs, labels = make(drawn, size, count + NUM_HELD_OUT)
    np.savez(
        folder / "data.npz",
        inputs=inputs[:count],
        labels=labels[:count],
        held_out_inputs=inputs[count:],
        held_out_labels=labels[count:],
        weights=drawn.uniform(0.5, 1.5, count).astype(np.float32),
    )
    content = {
        "name": problem.name,
        "model": size["model"],
        "batch_size": batch_size,
        "num_steps": problem.num_steps,
        "optimizer": {"name": problem.optimizer, **OPTIMIZERS[problem.optimizer]},
        "num_parameters": sum(array.size for array in initial.values()),
    }
    (folder / "problem.json").write_text(json.dumps(content, indent=1))


def _text(
    drawn: np.random.Generator, size: dict[str, Any], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a noisy cycle, so that there is something to learn; labels are the next tokens."""
    vocabulary, length = size["model"]["vocabulary"], size["model"]["length"]
    starts, strides = drawn.integers(0, vocabulary, count), drawn.integers(1, 8, count)
    tokens = starts[:, None] + strides[:, None] * np.arange(length + 1)
    noise = drawn.random(tokens.shape) < 0.1
    tokens = np.where(noise, drawn.integers(0, vocabulary, tokens.shape), tokens) % vocabulary
    return tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)


def _images(
    drawn: np.random.Generator, size: dict[str, Any], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth pattern for each class under as much noise."""
    channels, side = size["model"]["channels"], size["image"]
    coarse = drawn.normal(size=(10, channels, 4, 4))
    patterns = np.kron(coarse, np.ones((side // 4, side // 4)))
    labels = drawn.integers(0, 10, count)
    images = patterns[labels] + drawn.normal(size=(count, channels, side, side))
    return images.astype(np.float32), labels.astype(np.int64)
