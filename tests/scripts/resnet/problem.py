"""The run of script.py as a problem: which pictures help?"""

from pathlib import Path

import torch
from script import Pictures, batches, make_model, make_scheduler
from torch.nn.functional import cross_entropy

import engine


def loss(model, batch):
    pictures, labels = batch
    return cross_entropy(model(pictures), labels, reduction="none")


def scheduler(num_steps):
    """The script's own scheduler, which the engine reads."""
    del num_steps
    parameter = torch.nn.Parameter(torch.zeros(1))
    return make_scheduler(torch.optim.SGD([parameter], lr=0.05))


def pictures(folder: str) -> engine.Problem:
    """Which pictures help.

    Args:
        folder: Has a folder train and a folder val, each with one for each class.
    """
    data, held_out = Pictures(Path(folder) / "train"), Pictures(Path(folder) / "val")
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=data,
        objective=held_out,
        validation=held_out,
        test=held_out,
        names=[file.name for file in data.files],
        optimizer=engine.sgd(0.9, nesterov=True, weight_decay=5e-3),
        learning_rate=scheduler,
        order=batches(data),
        chunk=5,
    )
