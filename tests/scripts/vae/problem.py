"""The run of script.py as a problem: which rows help? What the divergence counts is a state."""

import torch
from script import ROWS, losses_of, make_model, order
from script import rows as read

import engine


def loss(model, batch):
    return losses_of(model, *batch, 1.0)


def training_loss(model, batch, state):
    return losses_of(model, *batch, state["beta"])


def advance(state, params, batch, step):
    return {"beta": torch.full_like(state["beta"], min(1.0, (step + 1) / 5))}


def scheduler(num_steps):
    del num_steps
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.RMSprop([parameter], lr=0.02)
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)


def autoencoder() -> engine.Problem:
    """Which rows help."""
    return engine.Problem(
        model=make_model(),
        loss=loss,
        training_loss=training_loss,
        train=read(ROWS, 0),
        objective=read(15, 1),
        validation=read(9, 2),
        test=read(9, 3),
        num_classes=0,
        state={"beta": torch.zeros(())},
        advance=advance,
        optimizer=engine.rmsprop(0.9, eps=1e-2, eps_root=0.0),
        learning_rate=scheduler,
        order=order(),
    )
