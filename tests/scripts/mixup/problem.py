"""The run of script.py as a problem: which images help?"""

import torch
from script import IMAGES, make_model, make_scheduler, mixed, mixed_losses, order
from script import images as read
from torch.nn.functional import cross_entropy

import engine


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def training_loss(model, batch, label_smoothing=0.0):
    return mixed_losses(model, *batch, label_smoothing)


def mixup(batch, generator):
    del generator  # the script draws nothing
    return mixed(*batch)


def scheduler(num_steps):
    del num_steps
    return make_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))


def images() -> engine.Problem:
    """Which images help."""
    curriculum = order()
    return engine.Problem(
        model=make_model(),
        loss=loss,
        training_loss=training_loss,
        train=read(IMAGES, 0),
        objective=read(20, 1),
        validation=read(10, 2),
        test=read(10, 3),
        augment=mixup,
        optimizer=engine.sgd(0.9, clip_value=0.1),
        learning_rate=scheduler,
        order=lambda step: curriculum[step],
    )
