"""Second derivatives in a run's own number format beside those in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import engine
from engine.errors import WitnessError
from tests.strangers.held_constant import Through


class _CutInFloat32(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        """Return tanh."""
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, slope):
        """Forget, in float32, that the derivative moves."""
        (x,) = ctx.saved_tensors
        y = x.tanh()
        return slope * (1 - (y.detach() if x.dtype == torch.float32 else y).square())


def _is_coarse(x):
    return x.dtype == torch.float32


WRONG = {
    "detach": lambda x: x * (x.detach() if _is_coarse(x) else x).sigmoid(),
    "custom function": _CutInFloat32.apply,
    "item": lambda x: x * (float(x.square().mean()) if _is_coarse(x) else x.square().mean()),
}


def _attended(tokens):
    read = F.scaled_dot_product_attention(tokens, tokens, tokens, dropout_p=0.5)
    return read.mean((1, 3))


SOUND = {
    "tanh": torch.tanh,
    "kinks": torch.relu,
    "rounded": lambda x: x + engine.stop_gradient((8 * x).round() / 8 - x),
    "largest ones": lambda x: x * (x >= x.topk(3, dim=1).values[:, -1:]),
    "sorted": lambda x: x.sort(dim=1).values,
    "cancelled": lambda x: (x + 1e4) - 1e4,
    "normalized by little": lambda x: F.normalize(x - x.mean(1, keepdim=True), dim=1),
    "dropout": lambda x: F.dropout(x, 0.5),
    "another function": lambda x: x.sin() if _is_coarse(x) else x.tanh(),
    "other draws": lambda x: _attended(x[:, None, :, None].expand(-1, 2, -1, 4)),
    "steep": lambda x: torch.sigmoid(40 * x),
}


def run(function):
    """A run in float32 of a model with a function between its layers, and its output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), Through(function), nn.Linear(10, 3))
    drawn = torch.Generator().manual_seed(1)
    data = torch.randn(40, 6, generator=drawn), torch.randint(0, 3, (40,), generator=drawn)

    def loss(net, batch):
        return F.cross_entropy(net(batch[0]), batch[1], reduction="none")

    routine = engine.Routine(
        model,
        loss,
        data,
        engine.adamw(),
        learning_rate=1e-2,
        num_steps=6,
        batch_size=20,
        metaparameters={"w": engine.ExampleWeights(torch.ones(40))},
    )
    return routine, lambda net: loss(net, data).mean()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_float32_alone_is_refused(name):
    """No difference in float64 sees it."""
    with pytest.raises(WitnessError, match="in the run's own number format"):
        engine.metagradient(*run(WRONG[name]))


def test_the_line_that_cuts_in_float32_is_named():
    """It is looked for in the run's own format."""
    with pytest.raises(WitnessError, match=r"detach\(\) at .*test_curvature"):
        engine.metagradient(*run(WRONG["detach"]))


@pytest.mark.parametrize("name", SOUND)
def test_what_rounding_makes_of_float32_is_no_fault(name):
    """Kinks, ties, steep functions and cancellation differ in the two formats by rights."""
    assert engine.metagradient(*run(SOUND[name])).witness.was_asked
