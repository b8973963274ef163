"""Backward passes that their authors wrote, of custom functions.

A step is made by them, and its derivative is that of what they compute. Those whose own computing
is cut out of the graph are refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.strangers.held_constant import Through
from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp

Apply = Callable[..., Any]
_HELD = tuple(column[NUM_EXAMPLES:] for column in data())


def function(forward: Callable, backward: Callable, **methods: Callable) -> Apply:
    """Return a custom function as people keep it: its ``apply`` under a name of their own."""
    held = {"forward": forward, "backward": backward, **methods}
    return type("Own", (Function,), {n: staticmethod(f) for n, f in held.items()}).apply


def _same(_ctx: Any, values: Tensor) -> Tensor:
    return values.view_as(values)


def _saving(forward: Callable[..., Any]) -> Callable[..., Any]:
    def saving(ctx: Any, *inputs: Tensor) -> Any:
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    return saving


def _reversed(ctx: Any, values: Tensor, factor: float) -> Tensor:
    ctx.factor = factor
    return values.view_as(values)


reversal = function(_reversed, lambda ctx, g: (-ctx.factor * g, None))


class _SetUp(Function):
    """In the newer form, whose forward pass knows no context."""

    @staticmethod
    def forward(values: Tensor, factor: float) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient, None


class _Forward(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()


class _Inherits(_Forward):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.7 * gradient


class _Vjp(Function):
    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vjp(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class _Around(Function):
    """Calls another custom function in its forward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return reversal(values, 1.0).tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def _saved_output(ctx: Any, values: Tensor) -> Tensor:
    found = values.exp()
    ctx.save_for_backward(found)
    return found


_binary = function(
    _saving(torch.sign), lambda ctx, g: g * (ctx.saved_tensors[0].abs() <= 1).to(g.dtype)
)
_bound = function(lambda _, x: x.clamp(-0.8, 0.8), lambda _, g: g)
_two = function(
    _saving(lambda a, b: (a * b, a + b)),
    lambda ctx, g, h: (0.5 * (g * ctx.saved_tensors[1] + h), g * ctx.saved_tensors[0] + h),
)
_by_numpy = _saving(lambda x: x * torch.from_numpy(np.sin(x.detach().numpy())))


def _slope_of_sine_by_itself(x: Tensor) -> Tensor:
    return x.sin() + x * x.cos()


CHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "reversal": lambda h: reversal(h, 0.3),
    "reversal by setup_context": lambda h: _SetUp.apply(h, 0.5),
    "reversal by inheritance": _Inherits.apply,
    "reversal by vjp": _Vjp.apply,
    "reversal in a checkpoint": lambda h: checkpoint(
        lambda x: reversal(torch.sin(2 * x), 0.3), h, use_reentrant=False
    ),
    "one function in another": _Around.apply,
    "clipped": function(_same, lambda _, g: g.clamp(-1e-3, 1e-3)),
    "clipped where no step is": function(_same, lambda _, g: g.clamp(-5, 5)),
    "by its norm": function(_same, lambda _, g: g / (g.norm() + 1e-6)),
    "rounding": function(lambda _, x: (4 * x).round() / 4, lambda _, g: g),
    "a bound that is reached later": lambda h: _bound(4 * h.mean(1, keepdim=True) * h),
    "a bound that lets gradients through": lambda h: _bound(h),
    "drawn bits": function(
        lambda _, x: (torch.rand_like(x) < x.sigmoid()).to(x.dtype), lambda _, g: g
    ),
    "noise in the forward pass": function(
        lambda _, x: x * (1 + 0.1 * torch.randn_like(x)), lambda _, g: g
    ),
    "saved output, reversed": function(
        _saved_output, lambda ctx, g: -0.3 * g * ctx.saved_tensors[0]
    ),
    "two outputs": lambda h: sum(_two(h, h.sin())),
    "one input twice": lambda h: sum(_two(h, h)),
    "a derivative that is right, of numpy": function(
        _by_numpy,
        lambda ctx, g: g * _slope_of_sine_by_itself(*ctx.saved_tensors),
    ),
}
"""What a function makes of hidden units; its gradient is another one than its derivative."""

CUT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a detached gradient": (
        function(_same, lambda _, g: -g.detach()),
        r"second derivative.*detach\(\) at .*own_backward.py",
    ),
    "a detached input": (
        function(_saving(torch.square), lambda ctx, g: -2 * g * ctx.saved_tensors[0].detach()),
        r"second derivative.*detach\(\) at .*own_backward.py",
    ),
    "a right derivative that is cut": (
        function(_saving(torch.square), lambda ctx, g: 2 * g * ctx.saved_tensors[0].detach()),
        r"second derivative.*detach\(\) at .*own_backward.py",
    ),
    "numpy, reversed": (
        function(
            _saving(lambda x: torch.from_numpy(np.sin(x.detach().numpy()))),
            lambda ctx, g: -g * ctx.saved_tensors[0].cos(),
        ),
        r"second derivative",
    ),
    "marked once_differentiable": (
        function(_same, once_differentiable(lambda _, g: torch.from_numpy(-g.numpy()))),
        r"Leave @once_differentiable out",
    ),
    "marked once_differentiable, detached": (
        function(
            _saving(torch.square),
            once_differentiable(lambda ctx, g: 2 * g * ctx.saved_tensors[0].detach()),
        ),
        r"custom function Own.* is marked @once_differentiable.*difference quotients",
    ),
}
"""Backward passes that are no functions of what they read, as far as autograd knows."""


class BinaryWeights(nn.Module):
    """Signs of the weights times their mean size, whose gradients go straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.last.weight
        hidden = torch.tanh(self.first(inputs))
        return F.linear(hidden, _binary(weight) * weight.abs().mean(), self.last.bias)


class Domains(nn.Module):
    """Features from which no domain is to be told, whose reversal grows from step to step."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classes = nn.Linear(6, 8), nn.Linear(8, 3)
        self.domains = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
        self.register_buffer("step", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classes(torch.tanh(self.features(inputs)))

    def domain(self, inputs: Tensor, factor: float) -> Tensor:
        return self.domains(reversal(torch.tanh(self.features(inputs)), factor)).squeeze(1)


def adversarial(net: Domains, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Losses of classes and of domains."""
    told = net.domain(batch[0], float(2 / (1 + torch.exp(-net.step)) - 1))
    if net.training:
        net.step += 1
    domain = (batch[0][:, 0] > 0).to(told.dtype)
    return loss(net, batch) + F.binary_cross_entropy_with_logits(told, domain, reduction="none")


def _through_the_reversal(net: Domains) -> Tensor:
    return loss(net, _HELD).mean() + net.domain(_HELD[0], 0.4).square().mean()


def _domains(**more: Any) -> Variant:
    return Variant(lambda: Domains().double(), loss=lambda _: adversarial, **more)


def _layer(change: Callable[[Tensor], Tensor]) -> Variant:
    return Variant(lambda: mlp(nn.Tanh(), Through(change)))


SOUND: dict[str, Variant] = {
    **{f"own backward: {name}": _layer(change) for name, change in CHANGED.items()},
    "own backward: binary weights": Variant(lambda: BinaryWeights().double()),
    "own backward: adversarial domains": _domains(
        output=lambda _: lambda net: loss(net, _HELD).mean()
    ),
    "own backward: adversarial domains, with momentum": _domains(
        output=lambda _: lambda net: loss(net, _HELD).mean(), momentum=0.9, rate=0.1
    ),
    "own backward: an output through a reversal": _domains(output=lambda _: _through_the_reversal),
}

REFUSED: dict[str, tuple[Variant, str]] = {
    f"own backward: {name}": (_layer(change), words) for name, (change, words) in CUT.items()
}
