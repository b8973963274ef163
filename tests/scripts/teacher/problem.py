"""The run of script.py as a problem: the teacher and its ramp are a state of the problem's own."""

import torch
from script import (
    DECAY,
    EXAMPLES,
    LABELLED,
    RAMP,
    batches,
    consistency,
    make_student,
    supervised,
)
from script import examples as read
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import engine


def training_loss(model, batch, state):
    one, other, labels = batch
    ours = model(one)
    theirs = functional_call(model, state["teacher"], (other,))
    return supervised(ours, labels) + 5 * state["ramp"] * consistency(ours, theirs)


def loss(model, batch, state):
    """The teacher's loss, which is what is judged."""
    _, inputs, labels = batch
    logits = functional_call(model, state["teacher"], (inputs,))
    return cross_entropy(logits, labels, reduction="none")


def right(model, batch, state):
    _, inputs, labels = batch
    logits = functional_call(model, state["teacher"], (inputs,))
    return (logits.argmax(dim=1) == labels).double()


def advance(state, params, batch, step):
    teacher = {n: DECAY * mean + (1 - DECAY) * params[n] for n, mean in state["teacher"].items()}
    ramp = state["ramp"] * 0 + min((step + 1) / RAMP, 1.0)
    return {"teacher": teacher, "ramp": ramp}


def students() -> engine.Problem:
    """Which examples help a mean teacher."""
    data = read(EXAMPLES, 0, LABELLED)
    return engine.Problem(
        model=make_student(),
        loss=loss,
        training_loss=training_loss,
        train=data,
        objective=read(30, 1),
        validation=read(10, 2),
        test=read(10, 3),
        metrics={"accuracy": right},
        state={"teacher": lambda params: dict(params), "ramp": torch.zeros(())},
        advance=advance,
        optimizer=engine.sgd(0.9),
        learning_rate=0.3,
        order=batches(data[0]),
    )
