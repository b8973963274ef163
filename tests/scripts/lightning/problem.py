"""The run of script.py as a problem: how much decay? Rate and momentum follow its scheduler."""

import torch
from script import BATCH, EPOCHS, SCENES, make_module
from script import scenes as read
from torch.utils.data import DataLoader

import engine


def loss(module, batch):
    return module.losses(batch)


def order():
    """The shuffles of the script's loaders."""
    found = []
    for epoch in range(EPOCHS):
        drawn = torch.Generator().manual_seed(epoch)
        loader = DataLoader(range(SCENES), batch_size=BATCH, shuffle=True, generator=drawn)
        found += [batch.tolist() for batch in loader]
    return found


def scenes() -> engine.Problem:
    """How much weight decay."""
    module = make_module()

    def scheduler(num_steps):
        return module.configure_optimizers(num_steps)["lr_scheduler"]["scheduler"]

    def optimizer(num_steps):
        momenta = engine.rates(scheduler(num_steps), num_steps, of="momentum")
        return engine.sgd(momenta, weight_decay=module.weight_decay)

    return engine.Problem(
        model=module,
        loss=loss,
        train=read(SCENES, 0),
        objective=read(30, 1),
        validation=read(10, 2),
        test=read(10, 3),
        optimizer=optimizer,
        learning_rate=scheduler,
        order=order(),
    )
