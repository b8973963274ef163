"""The plain form of a run, which every other form is compared with."""

from collections import namedtuple

import torch
from torch.nn import functional

import engine
from tests.helpers.trainings import routines

N, STEPS, BATCH = 24, 6, 8
X, Y = routines.examples(N)
HELD_OUT = routines.examples(20, seed=1)
Pair = namedtuple("Pair", ["x", "y"])


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def by_name(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def by_field(model, batch):
    return functional.cross_entropy(model(batch.x), batch.y, reduction="none")


def output(model):
    return loss(model, HELD_OUT).mean()


def weights():
    return torch.ones(N, dtype=torch.float64)


def made(**changes):
    settings = {
        "model": routines.mlp(),
        "loss": loss,
        "examples": (X, Y),
        "optimizer": engine.sgd(0.9),
        "learning_rate": 0.1,
        "num_steps": STEPS,
        "batch_size": BATCH,
        "metaparameters": {"w": engine.ExampleWeights(weights())},
    }
    return engine.Routine(**(settings | changes))


def run(out=output, options=None, z=None, **changes):
    routine = made(**changes)
    return engine.metagradient(routine, out, z, **(options or {}))["w"].double()


def kinds(value):
    return {"w": engine.ExampleWeights(value)}


FORTY = {"metaparameters": {"w": engine.ExampleWeights(torch.ones(40).double())}}
