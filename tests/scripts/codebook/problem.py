"""The run of script.py as a problem: the codebook and its averages are a state of its own."""

import torch
from script import CODES, SIGNALS, batches, first_book, follow, make_model
from script import signals as read

import engine


def loss(model, batch, state):
    return model(batch, state["book"]["codes"])


def advance(state, params, batch, step, model):
    del params, step
    book = state["book"]
    codes, counts, sums = follow(model.encoder(batch), book["codes"], book["counts"], book["sums"])
    return {"book": {"codes": codes, "counts": counts, "sums": sums}}


def signals() -> engine.Problem:
    """Which signals help."""
    data, codes = read(SIGNALS, 5), first_book()
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=data,
        objective=read(20, 6),
        validation=read(10, 7),
        test=read(10, 8),
        state={"book": {"codes": codes, "counts": torch.ones(CODES), "sums": codes.clone()}},
        advance=advance,
        optimizer=engine.adamw(eps=1e-3, eps_root=0.0, weight_decay=0.02),
        learning_rate=0.02,
        order=batches(data),
    )
