"""Whole scripts with moving buffers and metaparameters of several kinds, trained by torch alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import engine
from engine.metaparameters.inputs import Inputs
from engine.routine.batch_order import Order
from tests.strangers.plain import BATCH, NUM_EXAMPLES, data, loss

STEPS, RATE, CLIP, DECAY, MOMENTUM = 7, 0.1, 0.5, 0.01, 0.9
CHOSEN = torch.tensor([1, 5, 7, 20])
INPUTS, LABELS = data()


class Net(nn.Module):
    """Two layers, and between them something that moves buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)

    def between(self, hidden: Tensor) -> Tensor:
        """Return other hidden units."""
        return hidden

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        return self.last(self.between(torch.tanh(self.first(inputs))))


class Normed(Net):
    """Batch normalization in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(10)

    def between(self, hidden: Tensor) -> Tensor:
        """Normalize by the batch, or by what is remembered."""
        return self.norm(hidden)


class Queue(Net):
    """A queue of keys, to which each example attends."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(1)
        self.register_buffer("keys", torch.randn(16, 10, generator=drawn))
        self.register_buffer("place", torch.zeros(1, dtype=torch.int64))

    def between(self, hidden: Tensor) -> Tensor:
        """Attend to the keys of the last batches."""
        held, at = self.keys.clone(), int(self.place)
        if self.training:
            self.keys[at : at + len(hidden)] = hidden.detach()
            self.place[0] = (at + len(hidden)) % 16
        return hidden + torch.softmax(hidden @ held.T, 1) @ held


class Taught(Net):
    """A teacher that follows the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("teacher", self.first.weight.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits with the teacher's share."""
        if self.training:
            with torch.no_grad():
                self.teacher.mul_(0.8).add_(self.first.weight, alpha=0.2)
        return super().forward(inputs) + (inputs @ self.teacher.T)[:, :3]


NETS: dict[str, Callable[[], Net]] = {
    "normed": Normed,
    "queue": Queue,
    "taught": Taught,
    "plain": Net,
}


def made(name: str) -> nn.Module:
    """Return a new net in float64, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETS[name]().double()


def mean_loss(model: nn.Module) -> Tensor:
    """The mean loss of the held-out half."""
    return cross_entropy(model(INPUTS[NUM_EXAMPLES:]), LABELS[NUM_EXAMPLES:])


def one_logit(model: nn.Module) -> Tensor:
    """A logit of one example."""
    return model(INPUTS[NUM_EXAMPLES:])[3, 1]


OUTPUTS = (mean_loss, one_logit)


@dataclass(frozen=True)
class Script:
    """A script: a net, and what is done around it.

    Attributes:
        net: Its name.
        averaged: Decay of an average of the weights, which is evaluated; None for none.
        shards: Pieces of a batch.
        repeats: Whether batches hold an example several times.
    """

    net: str
    averaged: float | None = None
    shards: int = 1
    repeats: bool = False

    def rows(self, step: int) -> Tensor:
        """Return the examples of a step."""
        if self.repeats:
            return torch.tensor([step % 5] * 3 + [1, 1, 5, 7, 20])
        return Order(torch.ones(NUM_EXAMPLES, dtype=torch.int64), BATCH, 0).batch(step)

    def point(self) -> dict[str, Tensor]:
        """Return weights, logarithms of rates, and inputs."""
        rates = torch.log(RATE * torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64))
        weights = torch.linspace(0.5, 1.5, NUM_EXAMPLES, dtype=torch.float64)
        return {"weights": weights, "rates": rates, "inputs": INPUTS[CHOSEN].clone()}

    def routine(self) -> engine.Routine:
        """Return the script as the engine takes it."""
        z = self.point()
        optimizer = engine.sgd(
            MOMENTUM, weight_decay=DECAY, clip_norm=CLIP, groups=[{"names": "*bias", "rate": 0.1}]
        )
        if self.averaged is not None:
            optimizer = engine.averaged(optimizer, self.averaged)
        return engine.Routine(
            made(self.net),
            loss,
            (INPUTS[:NUM_EXAMPLES], LABELS[:NUM_EXAMPLES]),
            optimizer,
            learning_rate=RATE,
            num_steps=STEPS,
            batch_size=BATCH,
            shards=self.shards,
            order=self.rows if self.repeats else None,
            metaparameters={
                "weights": engine.ExampleWeights(z["weights"]),
                "rates": engine.LearningRatePoints(z["rates"], num_steps=STEPS),
                "inputs": Inputs(z["inputs"], CHOSEN, num_examples=NUM_EXAMPLES),
            },
        )

    def train(self, z: Mapping[str, Tensor]) -> list[float]:
        """Return the outputs of a training in place."""
        model = made(self.net)
        named = dict(model.named_parameters())
        biases = [p for name, p in named.items() if name.endswith("bias")]
        others = [p for name, p in named.items() if not name.endswith("bias")]
        groups = [{"params": biases, "share": 0.1}, {"params": others, "share": 1.0}]
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, weight_decay=DECAY)
        average = {name: p.detach().clone() for name, p in named.items()}
        inputs = INPUTS[:NUM_EXAMPLES].clone()
        inputs[CHOSEN] = z["inputs"]
        for step in range(STEPS):
            model.train()
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * _rate(z["rates"], step)
            for rows in self.rows(step).tensor_split(self.shards):
                losses = loss(model, (inputs[rows], LABELS[rows]))
                (z["weights"][rows] * losses).sum().div(BATCH).backward()
            clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            kept = 0.0 if step == 0 or self.averaged is None else self.averaged
            for name, p in named.items():
                average[name].mul_(kept).add_(p.detach(), alpha=1 - kept)
        model.load_state_dict(average, strict=False)
        model.eval()
        with torch.no_grad():
            return [float(output(model)) for output in OUTPUTS]

    def difference(
        self, z: Mapping[str, Tensor], name: str, way: Tensor, distance: float = 1e-5
    ) -> list[float]:
        """Return the central difference of each output along a direction in one metaparameter."""
        ends = [self.train({**z, name: z[name] + d * way}) for d in (distance, -distance)]
        return [(a - b) / (2 * distance) for a, b in zip(*ends, strict=True)]


def _rate(points: Tensor, step: int) -> float:
    place = (len(points) - 1) * step / (STEPS - 1)
    left = min(int(place), len(points) - 2)
    return float(torch.lerp(points[left].exp(), points[left + 1].exp(), place - left))


def direction(shape: torch.Size, seed: int = 9) -> Tensor:
    """Return a random direction in float64."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=drawn, dtype=torch.float64)
