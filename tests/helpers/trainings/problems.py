"""Toy training problems shared by tests: small, in float64, hermetic."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine import Counts, ExampleWeights, LearningRatePoints, Metaparameter, Optimizer, Routine
from engine.metaparameters.group_weights import GroupWeights
from engine.metaparameters.initial_parameters import InitialParameters
from engine.metaparameters.inputs import Inputs
from engine.metaparameters.scalars import Scalars
from engine.metaparameters.weights import TokenWeights
from engine.numerics.determinism import generator
from engine.routine.optimizers import adam, adamw, averaged, sgd

NUM_EXAMPLES = 12
NUM_STEPS = 9
INJECTION_STEP = 4

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": sgd(weight_decay=0.2),
    "momentum": sgd(0.9, weight_decay=0.2),
    "nesterov": sgd(0.8, nesterov=True, weight_decay=0.2),
    "adam": adam(weight_decay=0.2, eps_root=1e-6),
    "adamw": adamw(weight_decay=0.5, eps_root=1e-6),
    "with options": averaged(
        adam(
            weight_decay=0.2,
            eps_root=1e-6,
            groups=[{"max_axes": 1, "weight_decay": 0.1, "rate": 2.0}],
            clip_norm=0.3,
        ),
        0.8,
    ),
}


def kinds() -> dict[str, dict[str, Metaparameter]]:
    """One routine's metaparameters for each kind, and all kinds at once."""
    weights = ExampleWeights(torch.linspace(0.5, 1.5, NUM_EXAMPLES, dtype=torch.float64))
    counts = Counts(
        torch.tensor([1, 0, 2, 1, 1, 3, 1, 0, 1, 1, 1, 1], dtype=torch.float64),
        injection_step=INJECTION_STEP,
    )
    rates = LearningRatePoints(
        torch.tensor([-3.0, -2.5, -4.0], dtype=torch.float64), num_steps=NUM_STEPS
    )
    groups = torch.arange(NUM_EXAMPLES) % 3
    mixture = GroupWeights(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64), groups)
    tokens = TokenWeights(
        torch.linspace(0.5, 1.5, 3 * NUM_EXAMPLES, dtype=torch.float64).view(-1, 3)
    )
    chosen = torch.tensor([2, 7, 9])
    inputs = Inputs(examples()[0][chosen], chosen, num_examples=NUM_EXAMPLES)
    start = InitialParameters(torch.cat([p.detach().reshape(-1) for p in model().parameters()]))
    smoothing = Scalars.of(torch.float64, weight_decay=0.2, label_smoothing=0.1)
    everything = {"weights": weights, "counts": counts, "rates": rates, "mixture": mixture}
    return {
        "weights": {"weights": weights},
        "counts": {"counts": counts},
        "learning-rate": {"rates": rates},
        "mixture": {"mixture": mixture},
        "tokens": {"tokens": tokens},
        "inputs": {"inputs": inputs},
        "initial": {"start": start},
        "scalars": {"scalars": smoothing},
        "all": everything | {"inputs": inputs, "start": start, "scalars": smoothing},
    }


def model() -> nn.Module:
    """A smooth network with dropout, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(4, 6), nn.GELU(), nn.Dropout(0.25), nn.LayerNorm(6), nn.Linear(6, 3)
        ).double()


def examples(num_examples: int = NUM_EXAMPLES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random inputs and labels."""
    drawn = generator(seed, "examples")
    inputs = torch.randn(num_examples, 4, generator=drawn, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (num_examples,), generator=drawn)


def loss(
    module: nn.Module,
    batch: tuple[Tensor, Tensor],
    *,
    label_smoothing: Tensor | float = 0.0,
    token_weights: Tensor | None = None,
) -> Tensor:
    """Per-example cross-entropy; the classes stand for tokens."""
    inputs, labels = batch
    logits = module(inputs).log_softmax(dim=1)
    classes = logits.shape[1]
    target = functional.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes
    losses = -logits * target
    return (losses if token_weights is None else losses * token_weights).sum(dim=1)


def output(module: nn.Module) -> Tensor:
    """Mean cross-entropy on examples that training does not see."""
    return loss(module, examples(7, seed=1)).mean()


def routine(optimizer: str = "adamw", kind: str = "weights", **changes: object) -> Routine:
    """A run of ``NUM_STEPS`` steps."""
    settings: dict[str, object] = {
        "model": model(),
        "loss": loss,
        "examples": examples(),
        "optimizer": OPTIMIZERS[optimizer],
        "learning_rate": 0.05,
        "num_steps": NUM_STEPS,
        "batch_size": 5,
        "seed": 1,
        "metaparameters": kinds()[kind],
    }
    return Routine(**(settings | changes))  # pyright: ignore[reportArgumentType] (a test's settings)
