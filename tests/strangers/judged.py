"""Custom functions of which another derivative is right from one call to the next."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from tests.strangers.held_constant import Through
from tests.strangers.own_backward import function
from tests.strangers.plain import Variant, mlp


def _quarters(x: Tensor) -> Tensor:
    return (4 * x).round() / 4


rounded = function(lambda _, x: _quarters(x), lambda _, g: g)
_far = function(lambda _, x: x.clamp(-20, 20), lambda _, g: g)


def _sine(ctx: Any, x: Tensor) -> Tensor:
    ctx.save_for_backward(x)
    return x.sin()


_right = function(_sine, lambda ctx, g: g * ctx.saved_tensors[0].cos())


class _Chosen(Function):
    """A sine whose derivative is right, or a rounding, as ``chosen`` says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, chosen: Any) -> Tensor:
        ctx.is_sine = chosen(x) if callable(chosen) else chosen < 30
        ctx.save_for_backward(x)
        return x.sin() if ctx.is_sine else _quarters(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient * ctx.saved_tensors[0].cos() if ctx.is_sine else gradient), None


def _by_shape(x: Tensor) -> Tensor:
    def is_thick(values: Tensor) -> bool:
        return values.ndim == 3

    return _Chosen.apply(_Chosen.apply(x[None], is_thick)[0], is_thick)  # pyright: ignore[reportReturnType, reportIndexIssue]


def _many_settings(x: Tensor) -> Tensor:
    for setting in range(33):
        x = x + 0.05 * _Chosen.apply(x, setting)  # pyright: ignore[reportOperatorIssue]
    return x


def _residual_in_place(x: Tensor) -> Tensor:
    x = 1 * x
    x += rounded(x)
    return x


def _into_itself(ctx: Any, x: Tensor) -> Tensor:
    ctx.mark_dirty(x)
    return x.mul_(4).round_().div_(4)


_writes = function(_into_itself, lambda _, g: g)


class _OfVmap(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _quarters(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Growing(Function):
    """Of complex numbers."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z * z.abs()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def _complex(x: Tensor) -> Tensor:
    z: Any = _Growing.apply(torch.complex(x, x.sin()))
    return z.real + z.imag


class _Rounding(Function):
    """A product of matrices, of which the first is rounded: one argument has a right derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _quarters(x) @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ _quarters(x)


class RoundedLayers(nn.Module):
    """Layers that round what they are given, the first of them what nobody learns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Any = _Rounding.apply(inputs, self.first.weight)
        found: Any = _Rounding.apply(torch.tanh(hidden + self.first.bias), self.last.weight)
        return found + self.last.bias


class Later(nn.Module):
    """Calls something from a step on, which it counts."""

    def __init__(self, change: Callable[[Tensor], Tensor], after: int = 4) -> None:
        super().__init__()
        self.change, self.after = change, after
        self.register_buffer("step", torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.step += 1
        return self.change(hidden) if self.training and self.step > self.after else hidden


class FarLater(Later):
    """A bound that is reached in later steps, far from where the first ones are."""

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.step += 1
        is_late = (self.step > self.after).to(hidden.dtype)
        return _far(hidden * (1 + 30 * is_late)) / (1 + 10 * is_late)


def _without_a_graph(called: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        with torch.no_grad():
            held = called(x)
        return x + 0.5 * held

    return change


def _layer(change: Callable[[Tensor], Tensor], kind: Callable[..., nn.Module] = Through) -> Variant:
    return Variant(lambda: mlp(nn.Tanh(), kind(change)))


def _at_once(change: Callable[[Tensor], Tensor]) -> nn.Module:
    return Later(change, after=0)


SOUND: dict[str, Variant] = {
    f"judged: {name}": variant
    for name, variant in {
        "by the shape": _layer(_by_shape),
        "many settings": _layer(_many_settings),
        "input changed in place": _layer(_residual_in_place),
        "written into": _layer(lambda x: _writes(1 * x)),
        "vmap": _layer(lambda x: torch.vmap(_OfVmap.apply)(x)),
        "complex": _layer(_complex),
        "data, then hidden units": Variant(lambda: RoundedLayers().double()),
        "later": _layer(rounded, Later),
        "a bound that is reached later and far": _layer(_far, FarLater),
        "right, under no_grad beside a buffer": _layer(_without_a_graph(_right), _at_once),
        "rounded, under no_grad beside a buffer": _layer(_without_a_graph(rounded), _at_once),
    }.items()
}
