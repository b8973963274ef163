"""Parts of runs that are handed in wrongly: modules, optimizers, losses and calls."""

import io
import threading

import torch
from torch import nn
from torch.utils.data import IterableDataset

import engine
from engine.routine.batch_order import Order
from tests.handed_in.plain import (
    BATCH,
    N,
    X,
    Y,
    loss,
)
from tests.helpers.trainings import routines


def several(outputs):
    return engine.metagradients(routines.routine(), outputs)


def evaluated(phi):
    return engine.evaluate(routines.routine(), routines.routine().initial_state(), phi)


def difference(direction, **named):
    return engine.central_difference(routines.routine(), routines.output, direction, **named)


class WithLock(nn.Sequential):
    """Holds a lock."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.lock = threading.Lock()


class WithFile(nn.Sequential):
    """Holds an open file."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.log = io.TextIOWrapper(io.FileIO("/dev/null"))


class WithGenerator(nn.Sequential):
    """Holds a generator."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.steps = (number for number in range(3))


class Stream(IterableDataset):
    """Samples without an index."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Trainer:
    """A class around a module, as frameworks have."""

    def __init__(self):
        self.network = routines.mlp()


def embedding(**settings):
    return nn.Sequential(nn.Embedding(10, 8, **settings), nn.Flatten(), nn.Linear(64, 3)).double()


def own_optimizer(update, init=lambda params: {}, hyperparameters=None):
    return engine.Optimizer("own", hyperparameters or {}, init, update)


LATE = next(
    index
    for index in range(N)
    if all(index not in Order(torch.ones(N).long(), BATCH, 0).batch(step) for step in (0, 1))
)
"""An example that neither the first nor the second step draws."""


def filled(value):
    model = routines.mlp()
    nn.init.constant_(model[0].weight, value)
    return model


def of_one_number():
    model = routines.mlp()
    model[0].bias = nn.Parameter(torch.zeros(1).double().expand(len(model[0].bias)))
    return model


def overlapping():
    model = routines.mlp()
    model[0].bias = nn.Parameter(model[0].weight.data[:, 0])
    return model


def frozen():
    return routines.mlp().requires_grad_(False)


def values(make):
    """A case that is made late, or calls something else than ``metagradient``."""
    return {"make": make}


def scheduler():
    optimizer = torch.optim.SGD(routines.mlp().parameters(), lr=0.1)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)


def torchs(name, **settings):
    """Return an optimizer of torch; the first one imports its compiler, for seconds."""
    return getattr(torch.optim, name)(routines.mlp().parameters(), lr=0.01, **settings)


def autocast(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return loss(model, batch).float()
