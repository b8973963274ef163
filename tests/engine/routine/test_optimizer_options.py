"""What is said of options of an optimizer that would do nothing, or something else."""

import pytest
import torch
from torch import nn

from engine import Routine, adamw, averaged, muon, sgd
from engine.errors import ConfigurationError
from engine.routine.optimizer import Optimizer
from tests.helpers.trainings import routines

STEPS = 12


def run_of(optimizer: Optimizer) -> Routine:
    """A run of a model whose parameters are called by numbers."""
    net = routines.seeded_model(lambda: nn.Linear(8, 5), nn.GELU, lambda: nn.Linear(5, 3))
    return routines.routine(model=net, optimizer=optimizer, num_steps=STEPS)


REFUSED = {
    "a group without parameters": (
        lambda: run_of(sgd(groups=[{"names": "*.beta"}])),
        "No parameter is in the group",
    ),
    "a setting that the optimizer lacks": (
        lambda: adamw(groups=[{"momentum": 0.9}]),
        "sets momentum, but adamw does not read it",
    ),
    "a setting that there is not": (
        lambda: sgd(groups=[{"lr": 0.1}]),
        "A group has names, max_axes, rate",
    ),
    "one of both betas": (lambda: adamw(beta1=0.8), r"Both are one: adamw\(\(0.9, 0.999\)\)"),
    "a rate": (lambda: sgd(lr=0.1), "the recipe's learning_rate"),
    "a slip": (lambda: adamw(beta=(0.9, 0.99)), "Did you mean 'betas'"),
    "groups by name": (lambda: sgd(groups={"bias": {}}), "Hand in a list"),
    "both ways to clip": (lambda: sgd(clip_norm=1.0, clip_value=1.0), "Use one of them"),
    "a norm of zero": (lambda: sgd(clip_norm=0), "above 0"),
    "a decay of 1": (lambda: averaged(sgd(), 1.0), "below 1"),
    "averaged twice": (lambda: averaged(averaged(sgd())), "once"),
    "a schedule of another length": (
        lambda: run_of(sgd([0.9] * 5)),
        "momentum has 5 values for 12 steps",
    ),
    "no matrix": (
        lambda: run_of(muon(rest_names=["*"])),
        "Use adamw by itself",
    ),
    "no such matrix": (
        lambda: run_of(muon(rest_names=["lm_head.*"])),
        "No parameter has a name like 'lm_head",
    ),
    "without a model": (
        lambda: sgd(groups=[{"max_axes": 1, "weight_decay": 0.0}]).init(torch.zeros(3)),
        "Hand it to a Routine",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_would_do_nothing_are_refused(name):
    """A pattern with a slip in it would leave all parameters in the default group, in silence."""
    make, message = REFUSED[name]

    with pytest.raises(ConfigurationError, match=message):
        make()
