"""An oracle that knows nothing of the engine but the order of its batches and its seeds.

It trains the user's module in place with ``torch.optim``, as anybody would, and takes a central
difference of two such trainings: no bound tensors, no flat vector, no second derivative.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate

import engine
from engine.numerics.determinism import seeded
from engine.routine.batch_order import Order

NUM_EXAMPLES, STEPS, BATCH, RATE = 24, 6, 8, 0.3


def data(width: int = 6) -> tuple[Tensor, Tensor]:
    """Forty-eight points in three classes; the second half is held out."""
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * NUM_EXAMPLES, width, generator=drawn, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (2 * NUM_EXAMPLES,), generator=drawn)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Per-example cross-entropy."""
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


@dataclass(frozen=True)
class Variant:
    """A stranger's training run.

    Attributes:
        make: Builds the module; called once for each training, so that nothing is carried over.
        loss: Per-example losses; made anew for each training from the module, where it is a
            function of one.
        output: phi, likewise; the mean loss of the held-out half by default.
        examples: Inputs and labels, held-out half included.
        wrapped: What is handed in for the training examples, e.g. a data set that makes them.
        rate: Learning rate.
        steps: T.
        momentum: Of SGD.
        shards: Pieces of a batch over which the gradient is accumulated.
        context: What the engine is called inside of.
    """

    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module], Callable] = field(default=lambda model: loss)
    output: Callable[[nn.Module], Callable] | None = None
    examples: Callable[[], tuple[Tensor, ...]] = data
    wrapped: Callable[[tuple[Tensor, ...]], Any] = field(default=lambda columns: columns)
    rate: float = RATE
    steps: int = STEPS
    momentum: float = 0.0
    shards: int = 1
    context: Callable[[], AbstractContextManager] = nullcontext

    def parts(self) -> tuple[nn.Module, Callable, Callable, Any]:
        """Return module, loss, output and training examples, all of them new."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.make()
        columns = self.examples()
        own, held = self.loss(model), tuple(column[NUM_EXAMPLES:] for column in columns)
        output = (lambda net: own(net, held).mean()) if self.output is None else self.output(model)
        return model, own, output, self.wrapped(tuple(c[:NUM_EXAMPLES] for c in columns))


def direction() -> Tensor:
    """A direction in the weights of the examples."""
    return torch.randn(
        NUM_EXAMPLES, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )


def by_engine(variant: Variant, **options: object) -> tuple[float, float]:
    """Return the metagradient along the direction, and phi."""
    model, own, output, examples = variant.parts()
    weights = torch.ones(NUM_EXAMPLES, dtype=torch.float64)
    with variant.context():
        routine = engine.Routine(
            model,
            own,
            examples,
            engine.sgd(variant.momentum),
            learning_rate=variant.rate,
            num_steps=variant.steps,
            batch_size=BATCH,
            shards=variant.shards,
            metaparameters={"weights": engine.ExampleWeights(weights)},
        )
        found = engine.metagradient(routine, output, **options)
    return float(found["weights"] @ direction()), found.output


def by_trainings(variant: Variant, distance: float = 1e-5) -> tuple[float, float]:
    """Return the same from three trainings in place."""

    def phi(shift: float) -> float:
        model, own, output, examples = variant.parts()
        weights = 1 + shift * direction()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=variant.rate, momentum=variant.momentum)
        order = Order(torch.ones(NUM_EXAMPLES, dtype=torch.int64), BATCH, 0)
        for step in range(variant.steps):
            model.train()
            optimizer.zero_grad(set_to_none=False)
            for number, rows in enumerate(order.batch(step).tensor_split(variant.shards)):
                part = ("batch",) if variant.shards == 1 else ("batch", "shard", number)
                with seeded(0, "examples", step, *part):
                    batch = _rows(examples, rows)
                with seeded(0, "step", step, *part):
                    (weights[rows] * own(model, batch)).sum().div(BATCH).backward()
            optimizer.step()
        model.eval()
        # Else torch takes another function of padded tokens where nobody wants a gradient.
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), seeded(0, "evaluation"):
                return float(output(model))
        finally:
            torch.backends.mha.set_fastpath_enabled(before)

    return (phi(distance) - phi(-distance)) / (2 * distance), phi(0.0)


def _rows(examples: Any, rows: Tensor) -> tuple[Tensor, ...]:
    if isinstance(examples, tuple):
        return tuple(column[rows] for column in examples)
    return tuple(default_collate([examples[int(row)] for row in rows]))


def mlp(*middle: nn.Module, width: int = 10) -> nn.Module:
    """Six inputs, ten hidden units, three logits, in float64."""
    return nn.Sequential(
        nn.Linear(6, width), *(middle or (nn.GELU(),)), nn.Linear(width, 3)
    ).double()


class Mid(nn.Module):
    """Linear 16 to 16, an operation that may hold a module, linear to 3."""

    def __init__(self, operation: Callable[..., Tensor], module: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.module, self.operation = nn.Linear(16, 16), module, operation
        self.last = nn.LazyLinear(3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the operation between two layers."""
        hidden = torch.tanh(self.first(inputs))
        arguments = (hidden,) if self.module is None else (self.module, hidden)
        return self.last(self.operation(*arguments).flatten(1))


def around(
    operation: Callable[..., Tensor], module: Callable[[], nn.Module] | None = None
) -> Variant:
    """Return a run whose net has an operation in the middle."""

    def make() -> nn.Module:
        net = Mid(operation, module() if module is not None else None).double()
        net.eval()
        net(data(16)[0][:4])  # sets the size of the last layer
        return net.train()

    return Variant(make, examples=lambda: data(16))


def copies(module: nn.Module, number: int) -> nn.ModuleList:
    """Return copies of a module."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(number))
