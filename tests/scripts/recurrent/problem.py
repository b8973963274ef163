"""The run of script.py as a problem: an example is a piece of a lane; hidden states are a state."""

import torch
from script import LANES, LENGTH, PIECE, make_model, piece_losses, text, zero

import engine

PIECES = LENGTH // PIECE


def loss(model, batch):
    """Lanes by themselves, read from the beginning."""
    inputs, targets = batch
    logits, _ = model(inputs, tuple(part.to(model.head.weight) for part in zero(len(inputs))))
    return piece_losses(logits, targets)


def training_loss(model, batch, state):
    inputs, targets = batch
    logits, _ = model(inputs, (state["hidden"]["h"], state["hidden"]["c"]))
    return piece_losses(logits, targets)


def advance(state, params, batch, step, model):
    """What the model knows after the piece, with the parameters that read it; then a new pass."""
    _, (h, c) = model(batch[0], (state["hidden"]["h"], state["hidden"]["c"]))
    kept = 0.0 if (step + 1) % PIECES == 0 else 1.0
    return {"hidden": {"h": kept * h, "c": kept * c}}


def cut(rows):
    """Pieces of all lanes, one after the other: inputs and targets."""
    pieces = [rows[:, begin : begin + PIECE + 1] for begin in range(0, LENGTH, PIECE)]
    found = torch.cat(pieces)
    return found[:, :-1], found[:, 1:]


def whole(lanes, seed):
    rows = text(lanes, seed)
    return rows[:, :-1], rows[:, 1:]


def order(step):
    first = step % PIECES * LANES
    return range(first, first + LANES)


def pieces() -> engine.Problem:
    """Which pieces help."""
    h, c = zero(LANES)
    return engine.Problem(
        model=make_model(),
        loss=loss,
        training_loss=training_loss,
        train=cut(text(LANES, 0)),
        objective=whole(8, 1),
        validation=whole(4, 2),
        test=whole(4, 3),
        num_classes=0,
        state={"hidden": {"h": h, "c": c}},
        advance=advance,
        optimizer=engine.sgd(clip_norm=0.25),
        learning_rate=1.0,
        order=order,
    )
