"""The witness of a batch in shards: all of them beside a loop that accumulates gradients."""

import re

import pytest
import torch
from torch import nn

import engine
from engine.errors import WitnessError
from engine.routine.module.held_module import HeldModule
from engine.step import gradient as of_batches
from engine.witness import witness
from tests.strangers.plain import mlp
from tests.strangers.witnessed import output, routine


def hooked():
    net = mlp()
    for parameter in net.parameters():
        parameter.register_hook(lambda gradient: gradient / (0.2 + gradient.norm()))
    return net


def weighted(**changes):
    weights = torch.linspace(0, 1, 24, dtype=torch.float64)
    return routine(shards=3, metaparameters={"w": engine.ExampleWeights(weights)}, **changes)


@pytest.mark.parametrize("model", [mlp, hooked])
def test_sound_shards_agree(model):
    """Examples of other weights among them, 0 too."""
    run = weighted(model=model())

    seen = witness.testify(run, [output], run.point())

    assert seen.gradient < 1e-12


@pytest.mark.slow
def test_check_says_once_what_goes_by_a_shard_alone():
    """The row of shards says it, with a remedy; the result of a call has no such row."""
    run = routine(model=mlp(nn.BatchNorm1d(10), nn.GELU()), shards=2)

    report = engine.check(run, output)

    said = [each.name for each in report.checks if "each of the 2 shards" in each.cause]
    assert said == ["shards"]
    assert "each of the 2 shards" in witness.testify(run, [output], run.point()).sentence


def test_engine_that_maps_the_sum_of_shards_is_refused(monkeypatch):
    """Torch calls a hook in each backward pass; the first shard by itself does not tell."""
    monkeypatch.setattr(HeldModule, "hooks_each_shard", property(lambda _run: False))

    with pytest.raises(WitnessError, match="its gradient by"):
        engine.train(weighted(model=hooked()))


def test_engine_that_leaves_a_shard_out_is_refused(monkeypatch):
    """The sum is another one, and so is the loss."""
    whole = of_batches.tree_sum
    monkeypatch.setattr(of_batches, "tree_sum", lambda parts, add: whole(list(parts)[:-1], add))

    with pytest.raises(WitnessError, match="has the loss") as caught:
        engine.train(weighted())
    words = r"handed in has the loss (\S+), and the engine's copy of it (\S+)\. "
    theirs, own = map(float, re.search(words, str(caught.value)).groups())
    assert theirs > own > 0  # of losses above 0, one share is missing
