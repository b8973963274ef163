"""Runs in float32, and losses and outputs that cannot be called in any other format."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import WitnessError
from engine.witness.witness import testify as ask
from tests.strangers.plain import data, loss, mlp
from tests.strangers.witnessed import routine


@pytest.mark.parametrize("what", ["detached", ".data", "numpy", "state_dict"])
def test_in_float32_a_constant_from_the_outer_module_is_noticed(what):
    """It moves by a share of itself that no rounding hides."""
    model = mlp().float()
    read = {
        "detached": lambda: model[0].weight.detach().square().mean(),
        ".data": lambda: model[0].weight.data.norm(),
        "numpy": lambda: torch.tensor(abs(model[2].weight.detach().numpy()).mean()),
        "state_dict": lambda: model.state_dict()["2.weight"].abs().mean(),
    }[what]
    run = routine(
        model,
        loss=lambda net, batch: loss(net, (batch[0].float(), batch[1])) * (1 + read()),
        metaparameters={"weights": engine.ExampleWeights(torch.ones(24))},
    )

    with pytest.raises(WitnessError, match="besides the module"):
        ask(run, [], run.point())


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_output_that_insists_on_float32_is_compared_in_it(is_cut):
    """It cannot be called in float64, where a derivative is told from a nearly right one."""
    held = data()[0][24:].float()

    def output(net):
        logs = net(held).log_softmax(1)
        assert logs.dtype == torch.float32
        share = logs.exp().detach() if is_cut else logs.exp()
        return -(share * logs).sum(1).mean()

    torch.manual_seed(0)
    run = routine(
        mlp().float(),
        loss=lambda net, batch: loss(net, (batch[0].float(), batch[1])),
        metaparameters={"weights": engine.ExampleWeights(torch.ones(24))},
    )

    if is_cut:
        with pytest.raises(WitnessError, match="derivative of the output"):
            ask(run, [output], run.point())
    else:
        assert ask(run, [output], run.point()).slope < 0.01


class _Swish(nn.Module):
    """Its gate is a constant to autograd, and moves with the parameters."""

    def forward(self, x):
        return x * x.detach().sigmoid()


def _insisting(middle):
    """A loss that cannot be called in float64."""
    torch.manual_seed(0)

    def insisting(net, batch):
        logits = net(batch[0])
        assert logits.dtype == torch.float32
        return torch.nn.functional.cross_entropy(logits, batch[1], reduction="none")

    return routine(
        nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(8, 3)),
        loss=insisting,
        examples=(data()[0][:24].float(), data()[1][:24]),
        metaparameters={"weights": engine.ExampleWeights(torch.ones(24))},
    )


def test_a_loss_that_insists_on_float32_is_compared_in_it():
    """Some percent are more than nothing, and the result says how much it is worth."""
    run = _insisting(nn.Tanh())

    found = ask(run, [], run.point())

    assert found.curvature < 0.05
    assert "some percent" in found.sentence


def test_a_module_of_such_a_loss_is_compared_by_itself():
    """In float32 kinks lie within the distances, so who refuses has seen a module that is wrong."""
    run = _insisting(_Swish())

    with pytest.raises(WitnessError, match=r"second derivative.*'1' \(_Swish\)"):
        ask(run, [], run.point())
