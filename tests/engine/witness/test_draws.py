"""A generator that the user's code keeps makes a step another one each time it is run."""

import random
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError, WitnessError
from engine.witness.draws import held_generators
from tests.strangers.plain import data, loss
from tests.strangers.witnessed import output, routine

_GLOBAL = np.random.default_rng(0)
_SEEDED = torch.Generator()


def _rarely(draw):
    """A loss that flips a coin which two calls hardly ever see."""
    return lambda net, batch: loss(net, batch) * (1.5 if draw() < 1e-6 else 1.0)


class _Held:
    """A loss that keeps a generator in what it is configured by."""

    def __init__(self):
        self.settings = {"noise": [np.random.RandomState(0)]}

    def __call__(self, net, batch):
        return _rarely(self.settings["noise"][0].rand)(net, batch)


def _closed_over():
    kept = torch.Generator().manual_seed(1)
    return _rarely(lambda: float(torch.rand((), generator=kept)))


LOSSES = {
    "a closure": (_closed_over, "'kept', a torch.Generator"),
    "a global": (lambda: _rarely(lambda: _GLOBAL.random()), "'_GLOBAL', a numpy.Generator"),
    "an object": (_Held, "'noise', a numpy.RandomState"),
    "an argument": (
        lambda: partial(
            lambda net, batch, drawn: _rarely(drawn.random)(net, batch), drawn=random.Random(0)
        ),
        "'drawn', a random.Random",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("call", ["metagradient", "train"])
def test_a_generator_that_moves_on_is_refused_by_name(name, call):
    """However rarely what it draws has an effect."""
    make, words = LOSSES[name]
    run = routine(loss=make())

    with pytest.raises(ConfigurationError, match=f"{words} that it keeps.*no step seeds"):
        engine.train(run) if call == "train" else engine.metagradient(run, output)


def test_an_output_may_keep_none_either():
    """It is evaluated once more by every check."""
    kept = np.random.default_rng(0)

    with pytest.raises(ConfigurationError, match="output draws random numbers from 'kept'"):
        engine.metagradient(routine(), lambda net: output(net) * (1 + (kept.random() < 1e-6)))


def _seeded(net, batch):
    noise = torch.randn(batch[0].shape, generator=_SEEDED.manual_seed(7), dtype=batch[0].dtype)
    return loss(net, (batch[0] + 0.1 * noise, batch[1]))


@pytest.mark.parametrize(
    "sound", [_seeded, lambda net, batch: loss(net, batch) * (1 if _GLOBAL else 0)]
)
def test_a_generator_that_stands_still_is_none_of_ours(sound):
    """One that the call seeds, and one that it does not draw from."""
    assert engine.metagradient(routine(loss=sound), output)["weights"].any()


class _Making(OrderedDict):
    """Makes its values when it is asked for them, as tables of layers do."""

    def __getitem__(self, key):
        raise AssertionError(key)


def test_nothing_is_made_or_called_by_looking():
    """A table of layers would make all of them."""
    module = nn.Linear(2, 2)
    module.table = _Making(first=nn.ReLU)
    module.drawn = {"deep": [(random.Random(0),)]}

    assert list(held_generators(module)) == ["deep"]


class _Cropped:
    """A data set that draws for each sample, as one with random crops does."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, indices):
        inputs, labels = (column[indices] for column in self.columns)
        return inputs + torch.randn(inputs.shape, dtype=inputs.dtype), labels


def test_held_out_examples_that_are_drawn_anew_are_refused_by_what_they_are():
    """In training a step seeds such draws; an output has none."""
    columns = tuple(column[:24] for column in data())
    held_out = engine.MeanLoss(loss, _Cropped(columns))
    with pytest.raises(WitnessError, match="held-out examples are others when they are read"):
        engine.metagradient(routine(examples=_Cropped(columns)), held_out)
