"""The run of script.py as a problem: which examples help?"""

import torch
from script import EXAMPLES, batches, make_model
from script import examples as read
from torch.nn.functional import cross_entropy

import engine


def loss(model, batch):
    _, inputs, labels = batch
    return cross_entropy(model(inputs), labels, reduction="none")


def scheduler(num_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.03)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)


def examples() -> engine.Problem:
    """Which examples help."""
    data = read(EXAMPLES, 0)
    rest = engine.sgd(0.8, nesterov=True, groups=[{"rate": 2.0}])
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=data,
        objective=read(40, 1),
        validation=read(10, 2),
        test=read(10, 3),
        optimizer=engine.muon(0.9, weight_decay=0.1, rest=rest, rest_names=["4.*"]),
        learning_rate=scheduler,
        order=batches(data[0]),
    )
