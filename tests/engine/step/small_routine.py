"""A classifier of four steps, where any routine will do."""

import torch
from torch import nn

import engine


def losses(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def small_routine():
    torch.manual_seed(0)
    examples = torch.randn(8, 3), torch.arange(8) % 2
    return engine.Routine(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
        losses,
        examples,
        engine.sgd(0.9),
        learning_rate=0.1,
        num_steps=4,
        batch_size=4,
        metaparameters={"w": engine.ExampleWeights(torch.ones(8))},
    )
