"""The run of script.py as a problem: which instructions help?"""

import torch
from script import ROWS, collate, losses_of, make_model, make_scheduler, order
from script import instructions as read

import engine


def rates(num_steps):
    del num_steps
    parameter = torch.nn.Parameter(torch.zeros(1))
    return make_scheduler(torch.optim.AdamW([parameter], lr=0.02))


def instructions() -> engine.Problem:
    """Which instructions help."""
    return engine.Problem(
        model=make_model(),
        loss=losses_of,
        train=engine.collated(read(ROWS, 0), collate),
        objective=engine.collated(read(12, 1), collate),
        validation=engine.collated(read(6, 2), collate),
        test=engine.collated(read(6, 3), collate),
        optimizer=engine.adamw(
            eps=1e-3,
            eps_root=0.0,
            weight_decay=0.05,
            clip_norm=1.0,
            groups=[{"names": "*.ln_*", "weight_decay": 0.0}],
        ),
        learning_rate=rates,
        order=order(),
    )
