"""A sound run that the tests of the witness change in one place each."""

import torch
from torch import Tensor, nn

import engine
from tests.strangers.plain import data, loss, mlp


def routine(model=None, **changes):
    """Return the run, with other settings."""
    settings = {
        "model": mlp() if model is None else model,
        "loss": loss,
        "examples": tuple(column[:24] for column in data()),
        "optimizer": engine.sgd(),
        "learning_rate": 0.3,
        "num_steps": 6,
        "batch_size": 8,
        "metaparameters": {"weights": engine.ExampleWeights(torch.ones(24, dtype=torch.float64))},
    }
    return engine.Routine(**(settings | changes))


def output(model):
    """Return the mean loss of held-out examples."""
    held = tuple(column[24:] for column in data())
    return loss(model, held).mean()


class Counting(nn.Module):
    """Counts how often it is called in training."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.net = mlp(nn.Tanh(), width=width)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        return self.net(inputs)
