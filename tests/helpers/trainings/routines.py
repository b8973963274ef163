"""A small sound run, and the parts that routines of the preflight are made of."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine import ExampleWeights, Metaparameter, Routine
from engine.numerics.determinism import generator
from engine.routine.optimizers import sgd

NUM_EXAMPLES, NUM_STEPS, BATCH = 96, 30, 16


def examples(num: int = NUM_EXAMPLES, seed: int = 0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Three classes of points in eight dimensions around their own centres."""
    drawn = generator(seed, "points")
    centres = torch.randn(3, 8, generator=generator(7, "centres"), dtype=torch.float64)
    labels = torch.randint(0, 3, (num,), generator=drawn)
    noise = torch.randn(num, 8, generator=drawn, dtype=torch.float64)
    return (centres[labels] + 0.7 * noise).to(dtype), labels


def images(num: int = NUM_EXAMPLES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same points as images of eight by eight pixels, one row repeated."""
    inputs, labels = examples(num, seed)
    return inputs[:, None, None, :].repeat(1, 1, 8, 1), labels


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Per-example cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def output(model: nn.Module) -> Tensor:
    """Mean cross-entropy on other points, as images where the model wants them."""
    first = next(model.parameters())
    inputs, labels = (images if first.ndim == 4 else examples)(60, seed=1)
    return functional.cross_entropy(model(inputs.to(first.dtype)), labels)


def seeded_model(*layers: Callable[[], nn.Module], dtype=torch.float64) -> nn.Module:
    """Build layers, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(*(layer() for layer in layers)).to(dtype)


def mlp(*middle: Callable[[], nn.Module], dtype=torch.float64) -> nn.Module:
    """Eight inputs, twelve hidden units, three logits."""
    return seeded_model(
        lambda: nn.Linear(8, 12), *(middle or (nn.GELU,)), lambda: nn.Linear(12, 3), dtype=dtype
    )


def weights(dtype=torch.float64) -> dict[str, Metaparameter]:
    """One weight for each example."""
    return {"weights": ExampleWeights(torch.ones(NUM_EXAMPLES, dtype=dtype))}


def routine(**changes: object) -> Routine:
    """A sound run, with something changed."""
    settings: dict[str, object] = {
        "model": mlp(),
        "loss": loss,
        "examples": examples(),
        "optimizer": sgd(0.9, weight_decay=0.02),
        "learning_rate": 0.05,
        "num_steps": NUM_STEPS,
        "batch_size": BATCH,
        "seed": 1,
        "metaparameters": weights(),
    }
    return Routine(**(settings | changes))  # pyright: ignore[reportArgumentType] (a test's settings)


def single(**changes: object) -> Routine:
    """The run in float32."""
    return routine(
        **{
            "model": mlp(dtype=torch.float32),
            "examples": examples(dtype=torch.float32),
            "metaparameters": weights(torch.float32),
            **changes,
        }
    )


class _Wrapped(nn.Module):
    """A network whose hidden values go through ``function``."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 12), nn.Linear(12, 3)
        self.function = function
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.decode(self.function(self, torch.tanh(self.encode(inputs))))


def through(function: Callable[[nn.Module, Tensor], Tensor]) -> Routine:
    return routine(model=seeded_model(lambda: _Wrapped(function)))


def attend(module: nn.Module, hidden: Tensor) -> Tensor:
    heads = hidden.view(-1, 1, 3, 4)
    return functional.scaled_dot_product_attention(heads, heads, heads).reshape(-1, 12)


def attend_by_flash(module: nn.Module, hidden: Tensor) -> Tensor:
    """Call a kernel without a second derivative, where nothing takes its place."""
    heads = hidden.view(-1, 1, 3, 4)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(heads, heads, heads)[0].reshape(-1, 12)
