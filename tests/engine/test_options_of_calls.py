"""No public call takes an option that nobody reads: what is misspelt is refused by its name."""

import inspect

import pytest
import torch
from torch.nn.functional import cross_entropy

import engine
from engine.errors import ConfigurationError


def routine():
    x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
    return engine.Routine(
        torch.nn.Linear(3, 2),
        lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
        (x, y),
        engine.sgd(),
        learning_rate=0.1,
        num_steps=2,
        batch_size=4,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(8))},
    )


def output(model):
    return model.weight.square().sum()


CALLS = {
    "sgd": [lambda: engine.sgd(momentun=0.9)],
    "adam": [lambda: engine.adam(eps_rot=1e-8)],
    "adamw": [lambda: engine.adamw(weigth_decay=0.1)],
    "rmsprop": [lambda: engine.rmsprop(alfa=0.9)],
    "muon": [lambda: engine.muon(momentun=0.9)],
    "check": [lambda: engine.check(routine(), output, schedul="k-ary")],
    "metagradient": [lambda: engine.metagradient(routine(), output, slow_slot=3)],
    "metagradients": [lambda: engine.metagradients(routine(), [output], aritie=3)],
    "descend": [
        lambda: engine.descend("digits-selection", trainings={"num_steps": 1}),
        lambda: engine.descend("digits-selection", training={"num_step": 1}),
        lambda: engine.descend("digits-selection", replay={"arityy": 1}),
        lambda: engine.descend(routine(), output, outer={"step_siz": 0.1}),
    ],
}
OF_A_PROBLEM = {"from_trainer", "from_lightning"}
"""Hand them to ``Problem``, which has no others."""

NAMES = (
    *("momentun", "eps_rot", "weigth_decay", "alfa", "schedul", "slow_slot", "aritie"),
    *("trainings", "num_step", "arityy", "step_siz"),
)


def test_every_call_that_takes_options_by_name_is_here():
    """A new one is asked the same."""
    takes = set()
    for name in engine.__all__:
        call = getattr(engine, name)
        if inspect.isfunction(call):
            kinds = {each.kind for each in inspect.signature(call).parameters.values()}
            takes |= {name} if inspect.Parameter.VAR_KEYWORD in kinds else set()

    assert takes == set(CALLS) | OF_A_PROBLEM
    with pytest.raises(TypeError, match="namez"):
        engine.Problem(namez=["a"])


@pytest.mark.parametrize(
    "call", [call for calls in CALLS.values() for call in calls], ids=lambda _: "call"
)
def test_misspelt_option_is_refused_by_its_name(call):
    """It would be left out without a word, and the result be another one's."""
    with pytest.raises((ConfigurationError, TypeError), match="|".join(NAMES)):
        call()
