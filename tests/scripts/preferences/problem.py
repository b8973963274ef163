"""The run of script.py as a problem: which preferences help?"""

import torch
from script import PAIRS, collate, losses_of, make_models, make_scheduler, sampler
from script import pairs as read

import engine


def preferences() -> engine.Problem:
    """Which pairs of answers help."""
    policy, reference = make_models()
    names = [f"{better.tolist()} over {worse.tolist()}" for better, worse in read(PAIRS, 0)]
    return engine.Problem(
        model=policy,
        loss=lambda model, batch: losses_of(model, reference, batch),
        train=engine.collated(read(PAIRS, 0), collate),
        objective=engine.collated(read(16, 1), collate),
        validation=engine.collated(read(8, 2), collate),
        test=engine.collated(read(8, 3), collate),
        names=names,
        optimizer=engine.rmsprop(0.9, eps=1e-3, eps_root=0.0, clip_norm=1.0),
        learning_rate=make_scheduler(torch.optim.RMSprop(policy.parameters(), lr=0.02)),
        order=sampler(),
    )
