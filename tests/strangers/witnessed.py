"""A sound run that the tests of the witness change in one place each."""

import torch

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
