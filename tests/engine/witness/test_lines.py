"""Messages name the line that cuts, or that cannot be differentiated twice."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import OneHotCategoricalStraightThrough
from torch.nn import functional

from engine.errors import EngineError
from tests.strangers.held_constant import Through
from tests.strangers.plain import Variant, by_engine, loss, mlp


class _Swish(torch.autograd.Function):
    """Computes its gradient with what the forward pass keeps as an array of numpy."""

    @staticmethod
    def forward(ctx, value):
        share = value.sigmoid()
        ctx.save_for_backward(value)
        ctx.share = share.detach().numpy()
        return value * share

    @staticmethod
    def backward(ctx, cotangent):
        (value,), share = ctx.saved_tensors, torch.from_numpy(ctx.share)
        return cotangent * (share + value * share * (1 - share))


class _Cut(torch.autograd.Function):
    """The identity, with a gradient that is cut."""

    @staticmethod
    def forward(ctx, value):
        return value.view_as(value)

    @staticmethod
    def backward(ctx, cotangent):
        return 0.5 * cotangent.data


class _Once(torch.autograd.Function):
    """A square whose gradient has no graph."""

    @staticmethod
    def forward(ctx, value):
        ctx.save_for_backward(value)
        return value * value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):
        return torch.from_numpy(2 * ctx.saved_tensors[0].numpy() * cotangent.numpy())


def _layer(function):
    return Variant(lambda: mlp(nn.Tanh(), Through(function)))


def _without(hidden: Tensor) -> Tensor:
    with torch.no_grad():
        return hidden.square()


def _attacked(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(net, (inputs, batch[1])).sum(), inputs)
    return loss(net, (batch[0] + 0.5 * functional.normalize(slope, dim=1), batch[1]))


def _hooked(hidden: Tensor) -> Tensor:
    hidden = hidden * 1
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: 0.5 * gradient.detach())
    return hidden


class _Unready(torch.autograd.Function):
    """Refuses to be differentiated twice, in words of its own."""

    @staticmethod
    def forward(ctx, given):
        ctx.save_for_backward(given)
        return given.sin()

    @staticmethod
    def backward(ctx, grad):
        assert not torch.is_grad_enabled(), "this kernel has one backward pass"
        (given,) = ctx.saved_tensors
        return grad * given.cos()


class _Exchanged(nn.Module):
    """A buffer whose memory is another one after each call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(10))

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.kept.set_(hidden.detach().mean(0).clone().untyped_storage(), 0, (10,), (1,))
        return hidden - self.kept


CASES = {
    "detach": (_layer(lambda h: h * h.detach()), r"detach\(\)"),
    "detach of one of many": (  # which fewer examples do not have
        _layer(lambda h: h * h[:8].detach()[6] if len(h) > 6 else h[:, :0] @ h),
        r"detach\(\)",
    ),
    "data": (_layer(lambda h: h * h.data), r"\.data"),
    "no_grad": (_layer(lambda h: h * _without(h)), r"no_grad\(\)"),
    "item": (_layer(lambda h: h * h.norm().item()), r"item\(\)"),
    "numpy": (_layer(lambda h: h * float(h.detach().numpy().std())), r"detach\(\)"),
    "hook": (_layer(_hooked), r"detach\(\)"),
    "custom function": (_layer(lambda h: _Swish.apply(h)), "the custom function _Swish"),
    "custom backward pass": (_layer(lambda h: _Cut.apply(h)), r"\.data"),
    "drawn one-hot, of distributions": (
        _layer(lambda h: OneHotCategoricalStraightThrough(logits=h).rsample()),
        r"detach\(\)",
    ),
    "inner derivative": (
        Variant(mlp, loss=lambda _: _attacked),
        r"autograd\.grad\(\) without create_graph=True",
    ),
    "once differentiable": (
        _layer(lambda h: _Once.apply(h)),
        "differentiated twice.*once_differentiable.*",
    ),
    "the memory of a buffer": (
        Variant(lambda: mlp(nn.Tanh(), _Exchanged()).double()),
        r"derivative for set_ is not implemented.*buffer\.copy_\(values\)\.",
    ),
    "own words": (
        _layer(lambda h: _Unready.apply(h)),
        "Step 0 cannot be reversed: AssertionError: this kernel has one backward pass.*",
    ),
    "rows of several lengths": (
        _layer(
            lambda h: torch.nested.to_padded_tensor(
                torch.nested.as_nested_tensor(list(h), layout=torch.jagged) * 2, 0.0
            )
        ),
        "Step 0 cannot be .*nested.*",
    ),
    "segments": (
        _layer(
            lambda h: (
                torch.segment_reduce(
                    h.T.contiguous(), "prod", lengths=torch.tensor([1] * h.shape[1]), axis=0
                ).T
            )
        ),
        "differentiated twice.*segment_reduce.*",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_line_is_named(name):
    """Of the user's own file, not of torch's nor of the engine's."""
    variant, what = CASES[name]

    with pytest.raises(EngineError, match=rf"{what}( It is called)? at \S*test_lines\.py:\d+"):
        by_engine(variant)
