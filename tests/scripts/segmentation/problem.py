"""The run of script.py as a problem: which masks help?"""

import torch
from script import PICTURES, make_model, make_scheduler, mask_losses, order
from script import pictures as read

import engine


def loss(model, batch):
    return mask_losses(model, *batch)


def scheduler(num_steps):
    del num_steps
    parameter = torch.nn.Parameter(torch.zeros(1))
    return make_scheduler(torch.optim.SGD([parameter], lr=0.1, momentum=0.9))


def optimizer(num_steps):
    momentum = engine.rates(scheduler(num_steps), num_steps, of="momentum")
    return engine.sgd(momentum, weight_decay=1e-3)


def masks() -> engine.Problem:
    """Which masks help."""
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=read(PICTURES, 0),
        objective=read(12, 1),
        validation=read(8, 2),
        test=read(8, 3),
        optimizer=optimizer,
        learning_rate=scheduler,
        order=order(),
    )
