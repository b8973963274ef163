"""Normalizations that keep their statistics where no state holds them, and what they are told."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import WitnessError
from engine.witness.kept_attributes import kept_from_call_to_call
from tests.strangers.plain import mlp
from tests.strangers.witnessed import output, routine


class Keeping(nn.Module):
    """Subtracts a running mean, or the batch's own while it trains."""

    def __init__(self, kept, *, reads=True):
        super().__init__()
        self.kept, self.reads = kept, reads

    def forward(self, inputs):  # noqa: D102 (torch's)
        now = inputs.mean(0).detach()
        if self.training:
            self._move(now)
        return inputs - (now if self.training and not self.reads else self._mean())

    def _move(self, now):
        self.kept = 0.9 * self.kept + 0.1 * now

    def _mean(self):
        return self.kept


class InADict(Keeping):
    """Keeps it in a dictionary."""

    def _move(self, now):
        self.kept["mean"] = 0.9 * self.kept["mean"] + 0.1 * now

    def _mean(self):
        return self.kept["mean"]


class ANumber(Keeping):
    """Keeps one number of Python."""

    def _move(self, now):
        self.kept = 0.9 * self.kept + 0.1 * now.mean().item()


class MadeLate(nn.Module):
    """Has a buffer without a value at first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("center", None)

    def forward(self, inputs):  # noqa: D102 (torch's)
        if self.training:
            now = inputs.mean(0).detach()
            self.center = now if self.center is None else 0.9 * self.center + 0.1 * now
        return inputs - self.center


ZEROS = torch.zeros(10, dtype=torch.float64)
REFUSED = {
    "an attribute": (lambda: Keeping(ZEROS), r"gave .* and .*'1.kept'.*register_buffer"),
    "an attribute that evaluation reads": (
        lambda: Keeping(ZEROS, reads=False),
        r"copy is .*'1.kept'.*register_buffer",
    ),
    "a dictionary": (lambda: InADict({"mean": ZEROS}), r"1.kept\['mean'\].*register_buffer"),
    "a number": (lambda: ANumber(0.0), r"'1.kept'.*also of a single number"),
    "a buffer that the first call makes": (MadeLate, r"makes the buffer '1.center'.*__init__"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_state_holds_is_named_with_a_remedy_that_fits(name):
    """Each is right as a buffer that has its shape from the beginning."""
    make, words = REFUSED[name]

    with pytest.raises(WitnessError, match=words):
        engine.metagradient(routine(mlp(make(), nn.GELU())), output)


def test_a_buffer_that_a_call_before_has_made_is_a_part_of_the_state():
    """That is the remedy."""
    model = mlp(MadeLate(), nn.GELU())
    model(torch.randn(8, 6, dtype=torch.float64))

    found = engine.metagradient(routine(model), output)

    assert found["weights"].any()


def test_what_stays_is_not_named():
    """A table that is read is no statistic."""
    module = mlp(Keeping(ZEROS), nn.GELU()).eval()
    inputs = torch.randn(8, 6, dtype=torch.float64)

    assert not kept_from_call_to_call(module, lambda: module(inputs))
    assert "'1.kept'" in kept_from_call_to_call(module, lambda: module.train()(inputs))
