"""Which custom functions a product takes the derivative of the forward pass of, and where."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.nn.functional import cross_entropy

import engine
from engine.routine.module.backward.own_derivative import OwnDerivatives, is_kept
from engine.routine.module.stop_gradient import whole_derivatives
from tests.strangers.held_constant import Through
from tests.strangers.own_backward import CHANGED, CUT, function
from tests.strangers.plain import NUM_EXAMPLES, data, direction

RIGHT = "a derivative that is right, of numpy"
POINT = torch.linspace(-1.2, 1.3, 12, dtype=torch.float64).reshape(3, 4)


class Sine(Function):
    """A function whose backward pass is its derivative."""

    calls: list[str] = []

    @staticmethod
    def forward(ctx, values):
        """Return the sine."""
        Sine.calls.append("forward")
        ctx.save_for_backward(values)
        return values.sin()

    @staticmethod
    def backward(ctx, gradient):
        """Return the derivative, which can be differentiated."""
        return gradient * ctx.saved_tensors[0].cos()


def kept(called, *, again=1):
    """Say whether the node of a call keeps its forward pass."""
    point = POINT.clone().requires_grad_()
    with OwnDerivatives():
        found = [called(point) for _ in range(again)][-1]
    return is_kept(found.grad_fn)


@pytest.mark.parametrize(
    "name", [n for n in CHANGED if n not in (RIGHT, "two outputs", "one input twice")]
)
def test_functions_with_another_backward_pass_are_kept(name):
    """A sum, and a checkpoint, end in another node."""
    assert kept(CHANGED[name])


@pytest.mark.parametrize(
    "called",
    [
        CHANGED[RIGHT],
        Sine.apply,
        CUT["a right derivative that is cut"][0],
        CUT["numpy, reversed"][0],
    ],
)
def test_others_stay_as_they_are(called):
    """Those that are right, and those whose forward pass has no derivative to be taken."""
    assert not kept(called)


def test_a_function_that_writes_into_its_input_stays_as_it_is():
    """A second call would write once more."""

    def forward(ctx, values):
        ctx.mark_dirty(values)
        return values.mul_(2)

    assert not kept(lambda x: function(forward, lambda _, g: -g)(1 * x))


def test_a_function_is_asked_once():
    """A step calls it as often as the user's code does."""
    Sine.calls.clear()
    kept(Sine.apply)
    first = len(Sine.calls)
    Sine.calls.clear()

    kept(Sine.apply, again=3)

    assert len(Sine.calls) == first + 2


def test_draws_are_those_of_a_call_without_the_engine():
    """Asking and tracing draw numbers of their own."""
    drawing, point = CHANGED["drawn bits"], POINT.clone().requires_grad_()
    torch.manual_seed(3)
    wanted = drawing(point), torch.rand(())
    torch.manual_seed(3)

    with OwnDerivatives():
        found = drawing(point), torch.rand(())

    assert all(map(torch.equal, found, wanted))


def test_classes_stay_and_applying_is_given_back():
    """Also after an error, and by a block within a block."""
    before = dict(vars(Sine))

    with suppress(ValueError), OwnDerivatives(), OwnDerivatives():
        Sine.apply(POINT.clone().requires_grad_())
        raise ValueError

    assert dict(vars(Sine)) == before
    assert "apply" not in vars(torch.autograd.function._SingleLevelFunction)


def test_a_product_finds_what_is_kept_wherever_it_is_pulled():
    """The block in which the graph was made has ended, and another function was called since."""
    reverse = CHANGED["reversal"]
    point = POINT.clone().requires_grad_()
    with OwnDerivatives():
        found = reverse(point).sum()
    with OwnDerivatives():
        Sine.apply(point)

    (gradient,) = torch.autograd.grad(found, point, retain_graph=True)
    with whole_derivatives():
        (product,) = torch.autograd.grad(found, point)

    assert torch.equal(gradient, torch.full_like(POINT, -0.3))
    assert torch.equal(product, torch.ones_like(POINT))


@pytest.mark.parametrize("size", [0.0, 0.1])
def test_a_bound_that_is_not_reached_yet_is_known(size):
    """A function is asked at other places too, or each process might find another answer."""
    bound = CHANGED["a bound that lets gradients through"]
    point = (size * POINT).requires_grad_()

    with OwnDerivatives():
        found = bound(point)

    assert is_kept(found.grad_fn)


def run(change, dtype=torch.float64, **more):
    """Return a run with a function in the middle."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), Through(change), nn.Linear(10, 3)).to(dtype)
    inputs, labels = data()
    return engine.Routine(
        model,
        lambda net, batch: cross_entropy(net(batch[0]), batch[1], reduction="none"),
        (inputs[:NUM_EXAMPLES].to(dtype), labels[:NUM_EXAMPLES]),
        engine.sgd(0.9),
        learning_rate=0.1,
        num_steps=6,
        batch_size=8,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(NUM_EXAMPLES, dtype=dtype))},
        **more,
    )


def output(net):
    """Return the mean loss of what is held out."""
    inputs, labels = (column[NUM_EXAMPLES:] for column in data())
    return cross_entropy(net(inputs.to(next(net.parameters()).dtype)), labels)


@pytest.mark.parametrize("name", ["reversal", "clipped", "by its norm"])
def test_float32_several_outputs_and_every_schedule_agree(name):
    """The functions are asked in float64, whatever the run computes in."""
    wanted = engine.metagradient(run(CHANGED[name]), output)["weights"]
    reference = engine.central_difference(run(CHANGED[name]), output, {"weights": direction()})

    coarse = engine.metagradient(run(CHANGED[name], torch.float32), output)["weights"].double()
    stored = engine.metagradient(run(CHANGED[name]), output, schedule="store-all")["weights"]
    both = engine.metagradients(run(CHANGED[name]), [output, lambda net: 2 * output(net)])

    assert float(wanted @ direction()) == pytest.approx(reference, rel=1e-6)
    torch.testing.assert_close(coarse, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stored, wanted)
    torch.testing.assert_close(both[1]["weights"], 2 * wanted)


def test_a_large_output_is_the_same_multiple():
    """Cotangents of a product are no gradients: nothing clips them, however large they are."""
    change = CHANGED["clipped where no step is"]
    one = engine.metagradient(run(change), output)["weights"]

    many = engine.metagradient(run(change), lambda net: 1e5 * output(net))["weights"]

    torch.testing.assert_close(many, 1e5 * one)
