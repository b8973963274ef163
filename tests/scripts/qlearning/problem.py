"""The run of script.py as a problem: which transitions help? The target network is a state."""

from script import (
    COPIED,
    DISCOUNT,
    TRANSITIONS,
    chosen,
    make_network,
    order,
    transitions,
)
from torch.func import functional_call
from torch.nn.functional import smooth_l1_loss

import engine


def loss(model, batch):
    return (chosen(model(batch.state), batch.action) - batch.reward).square()


def training_loss(model, batch, state):
    """The script's, whose no_grad() would hide how the target follows the parameters."""
    best = model(batch.following).argmax(dim=1)
    later = chosen(functional_call(model, state["target"], (batch.following,)), best)
    wanted = engine.stop_gradient(batch.reward + DISCOUNT * later * ~batch.done)
    return smooth_l1_loss(chosen(model(batch.state), batch.action), wanted, reduction="none")


def advance(state, params, batch, step):
    return {"target": dict(params) if (step + 1) % COPIED == 0 else state["target"]}


def qlearning() -> engine.Problem:
    """Which transitions help."""
    return engine.Problem(
        model=make_network(),
        loss=loss,
        training_loss=training_loss,
        train=transitions(TRANSITIONS, 0),
        objective=transitions(20, 3),
        validation=transitions(10, 4),
        test=transitions(10, 5),
        state={"target": lambda params: dict(params)},
        advance=advance,
        optimizer=engine.rmsprop(0.95, eps=1e-2, eps_root=0.0, clip_value=10.0),
        learning_rate=5e-3,
        order=order(),
    )
