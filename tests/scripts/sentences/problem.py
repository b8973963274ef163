"""The run of script.py as a problem: which sentences help?"""

import torch
from script import SENTENCES, collate, losses_of, make_model, order
from script import sentences as read

import engine


def loss(model, batch):
    return losses_of(model, batch)


def training_loss(model, batch, label_smoothing=0.0):
    return losses_of(model, batch, label_smoothing)


def scheduler(num_steps):
    del num_steps
    parameter = torch.nn.Parameter(torch.zeros(1))
    return torch.optim.lr_scheduler.StepLR(torch.optim.SGD([parameter], lr=0.3), 4, 0.5)


def sentences() -> engine.Problem:
    """Which sentences help."""
    return engine.Problem(
        model=make_model(),
        loss=loss,
        training_loss=training_loss,
        train=engine.collated(read(SENTENCES, 0), collate),
        objective=engine.collated(read(15, 1), collate),
        validation=engine.collated(read(9, 2), collate),
        test=engine.collated(read(9, 3), collate),
        optimizer=engine.sgd(0.8),
        learning_rate=scheduler,
        order=order(),
    )
