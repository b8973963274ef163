"""What a step holds constant moves from step to step, and a metagradient knows it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import embedding

import engine
from engine.errors import UndifferentiableError, WitnessError
from engine.routine.module.stop_gradient import PASSES, whole_derivatives
from tests.strangers.held_constant import HELD
from tests.strangers.plain import NUM_EXAMPLES, Variant, by_engine, by_trainings
from tests.strangers.witnessed import routine as witnessed


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_is_right(name):
    """The reference trains in place, where it is ``detach()``."""
    variant = HELD[name](engine.stop_gradient)
    wanted, value = by_trainings(variant)

    found, output = by_engine(variant)

    assert output == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", HELD)
def test_what_is_detached_is_refused_with_its_line(name):
    """The message names what to write in its place, which the test above tries."""
    with pytest.raises(WitnessError, match=r"detach\(\) at .*:\d+\. .*engine\.stop_gradient"):
        by_engine(HELD[name](lambda value: value.detach()))


@pytest.mark.parametrize(
    "options",
    [
        {"unroll": 3},
        {"micro_batch": 3},
        pytest.param({"vjp": "batched"}, marks=pytest.mark.slow),
        pytest.param({"schedule": "store-all"}, marks=pytest.mark.slow),
    ],
)
def test_every_way_to_reverse_is_right(options):
    """Forward-over-reverse takes a symmetric derivative for granted, and is refused below."""
    variant = HELD["focal weights"](engine.stop_gradient)

    assert by_engine(variant, **options) == pytest.approx(by_engine(variant), rel=1e-12)


def test_forward_over_reverse_is_refused():
    """The derivative of such a gradient is no Hessian."""
    with pytest.raises(UndifferentiableError, match="Use vjp=reverse-over-reverse"):
        by_engine(HELD["focal weights"](engine.stop_gradient), vjp="forward-over-reverse")


def test_an_output_is_differentiated_whole():
    """An output has one derivative, that of its value."""
    held = HELD["focal weights"](engine.stop_gradient)
    variant = Variant(held.make, output=lambda _: held.loss(None) and _mean_of(held))

    assert by_engine(variant)[0] == pytest.approx(by_trainings(variant)[0], rel=1e-5)


def _mean_of(held):
    held_out = tuple(column[NUM_EXAMPLES:] for column in held.examples())
    return lambda net: held.loss(None)(net, held_out).mean()


def test_the_references_agree():
    """Whole-run autograd differentiates each step's gradient once more, and so does the check."""
    variant = HELD["the other tower"](engine.stop_gradient)
    model, own, output, examples = variant.parts()
    routine = witnessed(model, loss=own, examples=examples, optimizer=engine.sgd(0.9))

    found = engine.metagradient(routine, output)["weights"]
    _, wanted = engine.whole_run_gradient(routine, output)

    assert torch.allclose(found, wanted["weights"], rtol=1e-10, atol=0)
    assert engine.check(routine, output).verdict.value != "refuse"


def test_outside_of_a_run_it_detaches():
    """So the same code trains by hand."""
    value = torch.ones(2, requires_grad=True)

    assert not engine.stop_gradient(value).requires_grad
    assert PASSES.depth == 0


def test_the_flag_is_given_back_after_an_error():
    """Else the next gradient would flow where nothing should."""
    with pytest.raises(ValueError, match="x"), whole_derivatives():
        raise ValueError("x")

    assert not PASSES.is_product


class _Tied(nn.Module):
    """Words whose head has their weights, so that the row of padding moves by it."""

    def __init__(self, padding_idx=2):
        super().__init__()
        self.words, self.middle = nn.Embedding(7, 5), nn.Linear(5, 5)
        self.padding = padding_idx

    def forward(self, tokens):
        rows = embedding(tokens, self.words.weight, padding_idx=self.padding)
        hidden = torch.tanh(self.middle(torch.tanh(rows).mean(1)))
        return hidden @ self.words.weight.T


def _tokens():
    drawn = torch.Generator().manual_seed(0)
    return tuple(
        torch.randint(0, 7, (2 * NUM_EXAMPLES, *rest), generator=drawn) for rest in ((5,), ())
    )


@pytest.mark.parametrize("padding", [2, -5])
def test_padding_among_tied_weights_is_right(padding):
    """Torch's second derivative by that row is 0, whatever the function."""
    variant = Variant(lambda: _Tied(padding).double(), examples=_tokens)

    assert by_engine(variant)[0] == pytest.approx(by_trainings(variant)[0], rel=1e-5)
