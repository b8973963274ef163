"""What the forward pass of a custom function computes without a graph, and where it goes."""

import pytest
import torch
from torch.autograd import Function

import engine
from engine.errors import WitnessError
from tests.strangers.plain import loss
from tests.strangers.witnessed import Counting, output, routine

_STEPS, _EVERY = 40, 11
LEFT = {}
BUFFER = torch.zeros(64, dtype=torch.float64)


def _is_due(model):
    return int(model.training and int(model.count) % _EVERY == 0)


class Node(Function):
    """All that it computes is a result, or kept in its node."""

    @staticmethod
    def forward(ctx, losses, leave):
        """Return them, with half of what is kept."""
        shaped = torch.tanh(losses)
        half = shaped * 0.5
        ctx.save_for_backward(half)
        ctx.shaped = [shaped]
        leave(shaped)
        return losses + half

    @staticmethod
    def backward(ctx, gradient):
        """Return the derivative."""
        (half,) = ctx.saved_tensors
        shaped = 2 * half
        return gradient * (1 + 0.5 * (1 - shaped * ctx.shaped[0])), None


class Beside(Function):
    """Returns a second result, for which it has no derivative."""

    @staticmethod
    def forward(ctx, losses):
        """Return them, and what is beside."""
        shaped = torch.tanh(losses)
        ctx.mark_non_differentiable(shaped)
        return losses + 0.5 * shaped.detach(), shaped

    @staticmethod
    def backward(ctx, gradient, _):
        """Leave the gradient as it is."""
        return gradient


def _nowhere(shaped):
    """Leave nothing."""


def _tensor(shaped):
    LEFT["it"] = shaped.clone()


def _part(shaped):
    LEFT["it"] = shaped.view(-1)[:]


def _number(shaped):
    LEFT["it"] = shaped.mean().item()


def _array(shaped):
    LEFT["it"] = torch.from_numpy(shaped.detach().numpy().copy())


def _written(shaped):
    BUFFER[: len(shaped)].copy_(shaped)
    LEFT["it"] = BUFFER[: len(shaped)]


def _with(leave):
    def own(model, batch):
        losses = Node.apply(loss(model, batch), leave)
        return losses * (1 + _is_due(model) * LEFT["it"])

    return own


def _result(model, batch):
    losses, shaped = Beside.apply(loss(model, batch))
    return losses * (1 + _is_due(model) * shaped)


def _hook(model, batch):
    losses = 1 * loss(model, batch)
    half, rest = 0.5 * losses, 0.5 * Node.apply(losses, _tensor)
    left = LEFT["it"]
    if half.requires_grad and _is_due(model):
        half.register_hook(lambda gradient: left)
    return half + rest


class Saved(Node):
    """Saves what it leaves elsewhere, and hands its context out."""

    @staticmethod
    def forward(ctx, losses):
        """Return them, with half of what is saved."""
        shaped = torch.tanh(losses)
        ctx.save_for_backward(shaped)
        LEFT["it"], LEFT["context"] = shaped, ctx
        return losses + 0.5 * shaped

    @staticmethod
    def backward(ctx, gradient):
        """Return the derivative."""
        (shaped,) = ctx.saved_tensors
        return gradient * (1 + 0.5 * (1 - shaped * shaped))


class SavedBeside(Saved):
    """Returns what it saves as a second result without a derivative."""

    @staticmethod
    def forward(losses):
        """Return them, and what is beside."""
        shaped = torch.tanh(losses)
        return losses + 0.5 * shaped, shaped

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Save it."""
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, gradient, _):
        """Return the derivative."""
        return Saved.backward(ctx, gradient)


class Times(Function):
    """A product, whose second factor is given to it."""

    @staticmethod
    def forward(ctx, losses, factor):
        """Return it."""
        ctx.factor = factor
        return losses * factor

    @staticmethod
    def backward(ctx, gradient):
        """Return the derivative by the first one, in which the second one stays."""
        return gradient * ctx.factor, None


def _kept(read):
    def own(model, batch):
        losses = Saved.apply(loss(model, batch))
        if not losses.requires_grad:
            return losses
        return losses * (1 + _is_due(model) * read(losses))

    return own


def _saved_result(model, batch):
    losses, shaped = SavedBeside.apply(loss(model, batch))
    return losses * (1 + _is_due(model) * shaped)


def _given(model, batch):
    losses = Saved.apply(loss(model, batch))
    return losses + _is_due(model) * Times.apply(losses, LEFT["it"])


LOSSES = {
    "what is saved, too": _kept(lambda _: LEFT["it"]),
    "a context": _kept(lambda _: LEFT["context"].saved_tensors[0]),
    "a node": _kept(lambda losses: losses.grad_fn.saved_tensors[0]),
    "a number of a context": _kept(lambda _: LEFT["context"].saved_tensors[0].mean().item()),
    "an argument of another function": _given,
    "a saved result without a derivative": _saved_result,
    "a tensor": _with(_tensor),
    "a part of one": _with(_part),
    "a number": _with(_number),
    "an array": _with(_array),
    "what is written into": _with(_written),
    "a result without a derivative": _result,
    "what a hook returns": _hook,
}


_OFTEN = ("a number", "a result without a derivative", "what a hook returns")


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(own, id=name, marks=() if name in _OFTEN else pytest.mark.slow)
        for name, own in LOSSES.items()
    ],
)
def test_what_is_left_and_counts_at_times_is_refused(own):
    """The function's results count at every step, and what it has left beside them at some."""
    run = routine(Counting(), loss=own, num_steps=_STEPS, learning_rate=0.1)

    with pytest.raises(WitnessError, match="comes only now and then"):
        engine.metagradient(run, output)


def _ordinary(model, batch):
    return Node.apply(loss(model, batch), _nowhere)


def test_a_function_that_leaves_nothing_is_right_and_is_not_asked(monkeypatch):
    """Each product judges its node, so that no step has to be computed again."""

    def asked(*given, **named):
        raise AssertionError("a step was computed again")

    monkeypatch.setattr("engine.replay.refusals.later_steps.notices", asked)
    run = routine(Counting(), loss=_ordinary, num_steps=_STEPS, learning_rate=0.1)

    found = engine.metagradient(run, output)["weights"]

    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    wanted = engine.central_difference(run, output, {"weights": direction})
    assert float(found @ direction) == pytest.approx(float(wanted), rel=1e-6)
