"""A short run of a model with attention, in float64."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import engine


class Causal(nn.Module):
    """Torch's function, called by a name that a module looks up."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.enter, self.leave = nn.Linear(1, 24), nn.Linear(8, 2)

    def forward(self, inputs):
        """Return two logits."""
        split = self.enter(inputs[..., None]).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(*split, dropout_p=rate, is_causal=True)
        return self.leave(read.transpose(1, 2).flatten(2).mean(1))


def run_of(model: nn.Module) -> tuple[engine.Routine, Callable[[nn.Module], torch.Tensor]]:
    """A run of three steps on twelve sequences, and its output."""
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 20, generator=drawn, dtype=torch.float64)
    labels = torch.randint(0, 2, (16,), generator=drawn)

    def loss(net, batch):
        return F.cross_entropy(net(batch[0]), batch[1], reduction="none")

    routine = engine.Routine(
        model.double(),
        loss,
        (inputs[:12], labels[:12]),
        engine.adamw(),
        learning_rate=0.05,
        num_steps=3,
        batch_size=6,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(12).double())},
    )
    return routine, lambda net: loss(net, (inputs[12:], labels[12:])).mean()
