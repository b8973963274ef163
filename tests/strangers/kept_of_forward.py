"""Custom functions that keep what their forward pass has computed on its way.

Torch holds that constant in the derivative of a backward pass. And functions that are marked
``once_differentiable``, whose backward pass is made of operations of torch all the same.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tests.strangers.own_backward import Through, function
from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())


def _swish(ctx: Any, x: Tensor) -> Tensor:
    kept = x.sigmoid()
    ctx.save_for_backward(x, kept)
    return x * kept


def _slope_of_swish(ctx: Any, gradient: Tensor) -> Tensor:
    x, kept = ctx.saved_tensors
    return gradient * (kept + x * kept * (1 - kept))


def _swish_in_a_dict(ctx: Any, x: Tensor) -> Tensor:
    ctx.kept, ctx.x = {"all": [x.sigmoid(), 3]}, x
    return x * ctx.kept["all"][0]


def _slope_by_a_dict(ctx: Any, gradient: Tensor) -> Tensor:
    kept = ctx.kept["all"][0]
    return gradient * (kept + ctx.x * kept * (1 - kept))


def _step(ctx: Any, x: Tensor) -> Tensor:
    ctx.over = x - (x.mean(0, keepdim=True) - 0.1)
    return (ctx.over > 0).to(x.dtype)


def _quantized(ctx: Any, x: Tensor) -> Tensor:
    scale = x.abs().max() / 7
    ctx.save_for_backward(x, scale)
    return (x / scale).round() * scale


def _near_a_level(ctx: Any, gradient: Tensor) -> Tensor:
    x, scale = ctx.saved_tensors
    return gradient * torch.exp(-((x / scale - (x / scale).round()) ** 2))


def _two(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    ctx.kept = (x.exp(), {"twice": 2 * x.exp()})
    return ctx.kept[0].sin(), ctx.kept[0].cos()


def _slope_of_two(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
    kept, more = ctx.kept
    return kept * (one * kept.cos() - other * kept.sin()) * more["twice"] / (2 * kept)


def _drawn(ctx: Any, x: Tensor) -> Tensor:
    ctx.kept = x.sigmoid() * torch.rand_like(x)
    return x * ctx.kept


def _into_itself(ctx: Any, x: Tensor) -> Tensor:
    ctx.mark_dirty(x)
    ctx.kept = x.sigmoid()
    return x.mul_(ctx.kept)


def _by_kept(ctx: Any, gradient: Tensor) -> Tensor:
    return gradient * ctx.kept


class _SetUp(Function):
    """In the newer form, where what is kept is a result that nobody differentiates."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x * x.sigmoid(), x.sigmoid()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:
        return _slope_of_swish(ctx, gradient)


class _Normalized(Function):
    """Layer normalization as kernels have it: what is normalized is kept, and not the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        factor = (x.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt()
        normal = (x - x.mean(-1, keepdim=True)) * factor
        ctx.save_for_backward(normal, factor, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        normal, factor, weight = ctx.saved_tensors
        own = gradient * weight
        along = normal * (own * normal).mean(-1, keepdim=True)
        return factor * (own - own.mean(-1, keepdim=True) - along), (gradient * normal).sum(0)


class Norm(nn.Module):
    """A layer of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalize."""
        return _Normalized.apply(inputs, self.weight)  # pyright: ignore[reportReturnType] (torch's apply)


class Sharpened(nn.Module):
    """A threshold whose surrogate gradient gets steeper from step to step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Call the function, which is told how steep."""
        if self.training:
            self.step += 1
        return _steep(inputs, 1 + self.step)


def _steeper(ctx: Any, x: Tensor, steepness: Tensor) -> Tensor:
    ctx.kept, ctx.steepness = (steepness * x).sigmoid(), steepness
    return (x > 0).to(x.dtype)


_steep = function(_steeper, lambda ctx, g: (g * ctx.steepness * ctx.kept * (1 - ctx.kept), None))
_own_swish = function(_swish, _slope_of_swish)
_once = function(_swish, once_differentiable(_slope_of_swish))


def _penalized(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A penalty on the gradient by the inputs, of which torch itself holds a part constant."""
    inputs = batch[0].clone().requires_grad_()
    losses = loss(net, (inputs, batch[1]))
    (slope,) = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
    return losses + 0.5 * slope.square().sum(1)


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "beside its input": _own_swish,
    "in a dict": function(_swish_in_a_dict, _slope_by_a_dict),
    "by setup_context": lambda h: _SetUp.apply(h)[0],  # pyright: ignore[reportIndexIssue, reportOptionalSubscript] (torch's apply)
    "a surrogate of what was kept": function(_step, lambda ctx, g: g / (1 + ctx.over.abs()) ** 2),
    "a scale": function(_quantized, _near_a_level),
    "two results": lambda h: sum(function(_two, _slope_of_two)(h)),
    "drawn": function(_drawn, _by_kept),
    "written into its input": lambda h: function(_into_itself, _by_kept)(1 * h),
    "in a checkpoint": lambda h: checkpoint(
        lambda x: _own_swish(torch.sin(2 * x)), h, use_reentrant=False
    ),
    "once, with what was kept": _once,
    "once, in a checkpoint": lambda h: checkpoint(
        lambda x: _once(torch.sin(2 * x)), h, use_reentrant=False
    ),
}

SOUND: dict[str, Variant] = {
    **{
        f"kept of forward: {name}": Variant(lambda c=change: mlp(nn.Tanh(), Through(c)))
        for name, change in KEPT.items()
    },
    "kept of forward: what is normalized": Variant(lambda: mlp(nn.Tanh(), Norm())),
    "kept of forward: steeper by and by": Variant(lambda: mlp(nn.Tanh(), Sharpened())),
    "kept of forward: below a penalty of the gradient": Variant(
        lambda: mlp(nn.Tanh(), Norm(), Through(_own_swish)),
        loss=lambda _: _penalized,
        output=lambda _: lambda net: loss(net, _HELD).mean(),
    ),
}
SOUND["kept of forward: in shards"] = replace(
    SOUND["kept of forward: what is normalized"], shards=2
)


class _Counted:
    """A factor that is another one at every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return 1 + 0.1 * (self.calls % 7)


def _counts_in_forward() -> Callable[[Tensor], Tensor]:
    factor = _Counted()

    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x.sigmoid() * factor()
        return x.sin()

    return function(forward, _by_kept)


def _counts_in_backward() -> Callable[[Tensor], Tensor]:
    factor = _Counted()
    backward = once_differentiable(lambda ctx, g: _slope_of_swish(ctx, g) * factor())
    return function(_swish, backward)


def _by_a_number(ctx: Any, x: Tensor) -> Tensor:
    ctx.largest = x.abs().max().item()
    return x / ctx.largest


def _by_numpy(ctx: Any, x: Tensor) -> Tensor:
    ctx.kept = torch.from_numpy(np.cos(x.detach().numpy()))
    return x.sin()


def _derivative_within(ctx: Any, gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        x = ctx.saved_tensors[0].detach().requires_grad_()
        return torch.autograd.grad(x * x.sigmoid(), x, gradient)[0]


WRONG: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], str]] = {
    "a number": (lambda: function(_by_a_number, lambda ctx, g: g / ctx.largest), r"item\(\)"),
    "of numpy": (lambda: function(_by_numpy, _by_kept), "second derivative.*custom function Own"),
    "a counter": (_counts_in_forward, "reads or changes something"),
    "once, with a counter": (_counts_in_backward, "reads or changes something"),
    "once, a derivative within": (
        lambda: function(_swish, once_differentiable(_derivative_within)),
        "custom function Own.* is marked @once_differentiable.*difference quotients",
    ),
}
"""Made for each training, since some count; and a part of what the engine says."""

REFUSED: dict[str, tuple[Variant, str]] = {
    f"kept of forward: {name}": (Variant(lambda m=make: mlp(nn.Tanh(), Through(m()))), words)
    for name, (make, words) in WRONG.items()
}
