"""The run of script.py as a problem: torch's own AdamW, groups by names, and a collate_fn.

Words that no text has never get a gradient, and Adam's root of nothing is a constant there.
"""

import torch
from script import BATCH, NO_DECAY, STEPS, TEXTS, collate, losses_of, make_model, make_scheduler
from script import texts as read
from torch.utils.data import DataLoader

import engine


def order():
    """What the script's loader draws."""
    loader = DataLoader(
        range(TEXTS),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(0),
    )
    found = []
    while len(found) < STEPS:
        found += [batch.tolist() for batch in loader]
    return found[:STEPS]


def rates(num_steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    return engine.rates(make_scheduler(torch.optim.AdamW([parameter], lr=0.02)), num_steps)


def texts() -> engine.Problem:
    """Which texts help."""
    no_decay = [{"names": f"*{word}*", "weight_decay": 0.0} for word in NO_DECAY]
    return engine.Problem(
        model=make_model(),
        loss=losses_of,
        train=engine.collated(read(TEXTS, 0), collate),
        objective=engine.collated(read(16, 1), collate),
        validation=engine.collated(read(8, 2), collate),
        test=engine.collated(read(8, 3), collate),
        optimizer=engine.adamw(
            eps=1e-3, eps_root=0.0, weight_decay=0.1, clip_norm=0.5, groups=no_decay
        ),
        learning_rate=rates,
        order=order(),
        chunk=4,
    )
