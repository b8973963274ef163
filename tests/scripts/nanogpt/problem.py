"""The run of script.py as a problem: which mixture of sources?"""

from script import STEPS, get_batches, get_lr, held_out, make_model, token_losses, windows

import engine


def loss(model, batch):
    inputs, targets = batch
    return token_losses(model, inputs, targets).mean(dim=1)


def mixture() -> engine.Problem:
    """Which mixture of three sources."""
    inputs, targets, of = windows()
    no_decay = [{"max_axes": 1, "weight_decay": 0.0}]
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=(inputs, targets),
        objective=held_out(),
        validation=held_out(),
        test=held_out(),
        groups={"text": of.tolist()},
        optimizer=engine.adamw(
            (0.9, 0.95), eps=1e-3, eps_root=0.0, weight_decay=0.1, clip_norm=0.4, groups=no_decay
        ),
        learning_rate=[get_lr(step) for step in range(STEPS)],
        order=list(get_batches(len(of))),
    )
