"""Where a product takes the derivative of the forward pass of a custom function."""

import gc
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.nn.functional import cross_entropy

import engine
from engine.errors import WitnessError
from engine.routine.module.backward.call import Call
from engine.routine.module.backward.own_derivative import OwnDerivatives, is_kept
from engine.routine.module.stop_gradient import whole_derivatives
from tests.strangers.held_constant import Through
from tests.strangers.judged import rounded
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


def product(called, point, cotangent):
    """Pull a cotangent as a product does, and say whether the forward pass's derivative was taken.

    Returns:
        The derivative, and whether.
    """
    leaf = point.clone().requires_grad_()
    with OwnDerivatives():
        found = called(leaf)
    with whole_derivatives():
        (pulled,) = torch.autograd.grad(found, leaf, cotangent, materialize_grads=True)
    return pulled, is_kept(found.grad_fn)


NOT_HERE = (RIGHT, "two outputs", "one input twice", "clipped where no step is")


@pytest.mark.parametrize("name", [n for n in CHANGED if n not in NOT_HERE])
def test_the_forward_pass_is_taken_where_the_backward_pass_is_no_derivative(name):
    """A sum, and a checkpoint, end in another node."""
    assert product(CHANGED[name], 1.3 * POINT, POINT.cos())[1]


@pytest.mark.parametrize(
    "called", [CHANGED[RIGHT], Sine.apply, CUT["a right derivative that is cut"][0]]
)
def test_a_right_backward_pass_is_taken(called):
    """Also where the forward pass cannot be traced."""
    assert not product(called, POINT, POINT.cos())[1]


def test_of_an_identity_that_clips_a_product_is_never_clipped():
    """Which is asked with the cotangents of the product, however large they are."""
    clipped = CHANGED["clipped where no step is"]

    small, is_other = product(clipped, POINT, POINT.cos())
    large, is_other_there = product(clipped, POINT, 1e4 * POINT.cos())

    assert not is_other
    assert is_other_there
    torch.testing.assert_close(large, 1e4 * small)


def test_where_neither_is_right_the_function_is_named():
    """Whatever the step: no number is given for it."""
    with pytest.raises(WitnessError, match="custom function Own.* no second derivative"):
        product(CUT["numpy, reversed"][0], POINT, POINT.cos())


def _assigned(_ctx, values, into):
    into.data[1:] = 2 * values
    return into.view_as(into)


def _by_parts(ctx, values):
    parts = values.exp()
    found = parts * 1
    parts /= 2  # which the product has saved
    ctx.save_for_backward(values)
    return found * parts


def test_what_a_forward_pass_writes_does_not_hide_a_right_derivative():
    """Solvers write by ``.data``, which counts no version; others into what autograd has saved."""
    assign = function(_assigned, lambda _, g: (2 * g[1:], None))
    scratch = torch.full((4, 4), torch.nan, dtype=torch.float64)
    parts = function(_by_parts, lambda ctx, g: g * (2 * ctx.saved_tensors[0]).exp())

    weights = torch.linspace(1, 2, 16, dtype=torch.float64).reshape(4, 4)
    for _ in range(2):  # the first call of a class is looked at more closely
        found, is_other = product(lambda x, s=scratch: assign(x, s), POINT, weights)
        assert not is_other
        torch.testing.assert_close(found, 2 * weights[1:])

    assert not product(parts, POINT, POINT.cos())[1]


def test_cotangents_that_are_no_numbers_are_handed_on():
    """What made them is named elsewhere; nothing can be judged with them."""
    found, _ = product(CHANGED["reversal"], POINT, POINT / 0)

    assert not found.isfinite().all()


def test_a_kink_is_the_authors_and_a_jump_nobodys():
    """At 0 a rectifier has two derivatives, and a step has one that is no jump."""
    zero = torch.zeros(3, dtype=torch.float64)
    rectifier = function(
        lambda ctx, x: (ctx.save_for_backward(x), x.relu())[1],
        lambda ctx, g: g * (ctx.saved_tensors[0] >= 0),
    )
    step = function(lambda _, x: (x >= 0).to(x.dtype), lambda _, g: g)

    assert torch.equal(product(rectifier, zero, torch.ones_like(zero))[0], torch.ones_like(zero))
    assert torch.equal(product(step, zero, torch.ones_like(zero))[0], zero)


def test_a_derivative_that_the_author_mended_is_taken():
    """Autograd's of a norm is NaN at 0."""
    norm = function(
        lambda ctx, x: (ctx.save_for_backward(x), x.square().sum().sqrt())[1],
        lambda ctx, g: g * ctx.saved_tensors[0] / ctx.saved_tensors[0].norm().clamp(min=1e-12),
    )
    zero = torch.zeros(3, dtype=torch.float64)

    assert torch.equal(product(norm, zero, torch.ones((), dtype=torch.float64))[0], zero)


def test_in_float32_what_only_rounds_otherwise_is_right():
    """Both derivatives are asked in float64 before anything is judged."""

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x + 1e4).square() - 1e8

    called = function(forward, lambda ctx, g: 2 * g * ctx.saved_tensors[0] + 2e4 * g)

    assert not product(called, POINT.float(), POINT.cos().float())[1]


def test_rows_of_a_batch_of_cotangents_are_judged_one_by_one():
    """As the product of several outputs pulls them; draws are allowed in it."""
    for name in ("clipped", "drawn bits", "noise in the forward pass"):
        leaf = POINT.clone().requires_grad_()
        rows = torch.stack([1e-5 * POINT.cos(), POINT.sin()])
        with OwnDerivatives():
            found = CHANGED[name](leaf)
        with whole_derivatives():
            one_by_one = [
                torch.autograd.grad(found, leaf, r, retain_graph=True, materialize_grads=True)[0]
                for r in rows
            ]
            (together,) = torch.autograd.grad(
                found, leaf, rows, is_grads_batched=True, allow_unused=True
            )

        together = torch.zeros_like(rows) if together is None else together
        torch.testing.assert_close(together, torch.stack(one_by_one), rtol=0, atol=0)


class Counting(Function):
    """A function whose values depend on how often it was called."""

    calls = 0

    @staticmethod
    def forward(ctx, values):
        """Return multiples."""
        Counting.calls += 1
        return values * Counting.calls

    @staticmethod
    def backward(ctx, gradient):
        """Return the gradient as it is."""
        return gradient


def test_a_function_that_says_something_else_each_time_is_refused():
    """Nobody can tell what its derivative was."""
    Counting.calls = 1

    with pytest.raises(
        WitnessError, match="Counting at .*other values when it is called once more"
    ):
        product(Counting.apply, POINT, POINT.cos())


def test_what_is_written_into_later_is_refused_where_it_is_no_copy():
    """Leaves are not copied; the values that it was asked with are gone."""

    def called(x):
        rounded(x)  # at a first call all of it is copied
        found = rounded(x)
        with torch.no_grad():
            x.add_(1)
        return found

    with pytest.raises(WitnessError, match="written into afterwards"):
        product(called, POINT, POINT.cos())


def test_a_training_step_calls_a_function_once():
    """What is asked is asked in a product."""
    Sine.calls.clear()
    leaf = POINT.clone().requires_grad_()

    with OwnDerivatives():
        torch.autograd.grad(Sine.apply(leaf).sum(), leaf)

    assert len(Sine.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("change", [CHANGED["rounding"], lambda x: _residual(x)])
def test_a_graph_is_freed_with_everything_that_its_nodes_keep(change):
    """Without the garbage collector: memory would grow with the steps."""
    gc.collect()
    gc.disable()
    try:
        before = _calls()
        leaf = POINT.clone().requires_grad_()
        with OwnDerivatives():
            found = change(leaf)
        during = _calls()
        with whole_derivatives():
            torch.autograd.grad(found.sum(), leaf, materialize_grads=True)
        del found

        assert during == before + 1
        assert _calls() == before
    finally:
        gc.enable()


def _calls():
    return sum(type(each) is Call for each in gc.get_objects())


def _residual(x):
    x = 1 * x
    x += rounded(x)
    return x


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


@pytest.mark.slow
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
