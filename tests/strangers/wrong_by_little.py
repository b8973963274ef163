"""Runs that are wrong by little, now and then, or for some examples, and so in silence.

Added to ``tests.strangers.wrong.REFUSED``.
"""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())

THE_MODULE = r"reads|besides the module|depends on the numbers that the module|two different"

DRAWS = r"draws random numbers from .*(numpy|Python)"

SECOND = r"second derivative"


def _output(_: nn.Module) -> Callable[[nn.Module], Tensor]:
    """Phi of runs whose loss should not be asked about held-out examples."""
    return lambda net: loss(net, _HELD).mean()


def _hooked(change: Callable[[Tensor, nn.Parameter], Tensor]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = mlp()
        weight = net[0].weight
        weight.register_hook(lambda gradient: change(gradient, weight))
        return net

    return make


def _remembering() -> nn.Module:
    """A hook with a momentum of its own."""
    net, kept = mlp(), []

    def change(gradient: Tensor) -> Tensor:
        kept.append(gradient.detach())
        return gradient + 0.1 * sum(kept[-3:])

    net[0].weight.register_hook(change)
    return net


def _running_out() -> nn.Module:
    """A hook that lets a gradient in over its first calls, all of which are over before a step."""
    net, calls = mlp(), []

    def change(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * min(1.0, len(calls) / 3)

    net[0].weight.register_hook(change)
    return net


class Warm(nn.Module):
    """Another function in its first calls, or in every second pair of calls."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        super().__init__()
        self.net, self.factor, self.calls = mlp(), factor, 0

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return self.net(inputs)
        self.calls += 1
        return self.factor(self.calls) * self.net(inputs)


class ByAddress(nn.Module):
    """Keeps a normalized weight until version or address of the weight are others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.kept = nn.Linear(6, 8), nn.Linear(8, 3), None

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.first.weight
        key = weight._version, weight.data_ptr()
        if self.kept is None or self.kept[0] != key:
            self.kept = key, F.normalize(weight)
        return self.last(torch.tanh(F.linear(inputs, self.kept[1])))


class Collector:
    """Keeps the activations that a hook of a layer sees."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    def note(self, module: nn.Module, inputs: object, found: Tensor) -> None:
        self.seen = found


def _collected(net: nn.Module) -> Callable:
    """A loss of the activations that an object beside the module collects."""
    collector = Collector()
    net[1].register_forward_hook(collector.note)

    def own(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss(model, batch) + 0.1 * collector.seen.square().mean(1)

    return own


def _rarely(draw: Callable[[], float]) -> Callable:
    """A loss that is another one three times in twenty, so that two calls mostly agree."""
    return lambda net, batch: loss(net, batch) * (1.5 if draw() < 0.15 else 1.0)


class Skipping(nn.Module):
    """Leaves layers out, now and then, as deep transformers do in training."""

    def __init__(self, draw: Callable[[], float | Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.draw = nn.Linear(6, 8), nn.Linear(8, 3), draw
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        for layer in self.layers:
            if not self.training or self.draw() >= 0.3:
                hidden = hidden + torch.tanh(layer(hidden))
        return self.last(hidden)


def _focal_where(chosen: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """A loss with a detached factor, for some of the examples."""

    def own(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        losses = loss(net, batch)
        share = (-losses).exp()
        cut = losses * (1 - share).detach() + losses
        return torch.where(chosen(share, batch[1]), cut, losses)

    return own


def _refused() -> dict[str, tuple[Variant, str]]:
    found: dict[str, tuple[Variant, str]] = {}
    hooks: dict[str, Callable[[Tensor, nn.Parameter], Tensor]] = {
        "decay by the parameter": lambda g, p: g + 0.02 * p,
        "decay by its values": lambda g, p: g + 1e-4 * p.detach(),
        "decay by .data": lambda g, p: g + 1e-4 * p.data,
        "a share of its norm": lambda g, p: g / (1 + 1e-3 * p.detach().norm()),
        "a number of it": lambda g, p: g * (1 + 1e-3 * float(p.detach().norm())),
    }
    for name, change in hooks.items():
        found[f"hook that reads the parameter: {name}"] = (Variant(_hooked(change)), THE_MODULE)
    found["hook with a momentum of its own"] = (Variant(_remembering), r"run twice|gradient by")
    found["hook whose counter runs out"] = (Variant(_running_out), r"when it is called again")
    counters: dict[str, Callable[[int], float]] = {
        "runs out": lambda calls: min(1.0, calls / 4),
        "turns in pairs": lambda calls: 1.0 + 0.5 * (calls // 2 % 2),
    }
    for name, factor in counters.items():
        found[f"counter that {name}"] = (
            Variant(lambda f=factor: Warm(f)),
            r"how often it was called|Two calls|run twice|replayed|besides the module",
        )
    found["cache by version and address"] = (
        Variant(lambda: ByAddress().double()),
        r"reads a tensor of shape|has no part|run twice|keeps a part of a graph",
    )
    for share in (1e-2, 1e-4, 1e-7):
        found[f"constant from the outer module, times {share:g}"] = (
            Variant(
                mlp,
                loss=lambda m, s=share: (
                    lambda net, b: loss(net, b) * (1 + s * m[0].weight.detach().norm())
                ),
                output=_output,
            ),
            THE_MODULE,
        )
    draws: dict[str, Callable[[], float]] = {
        "random": random.random,
        "numpy": lambda: float(np.random.random_sample()),
        "random, seeded by the clock": lambda: (random.seed(), random.random())[1],
    }
    for name, draw in draws.items():
        found[f"rare draw of {name} in the loss"] = (
            Variant(mlp, loss=lambda _, d=draw: _rarely(d), output=_output),
            DRAWS,
        )
        found[f"rare draw of {name} in the output"] = (
            Variant(mlp, output=lambda _, d=draw: lambda net: _rarely(d)(net, _HELD).mean()),
            DRAWS,
        )
        found[f"layers left out by {name}"] = (
            Variant(lambda d=draw: Skipping(d).double()),
            DRAWS,
        )
    some: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "confident ones": lambda share, _: share > 0.34,
        "unlikely ones": lambda share, _: share < 0.3,
        "one class": lambda _, labels: labels == 0,
    }
    for name, chosen in some.items():
        found[f"detach for {name}"] = (
            Variant(mlp, loss=lambda _, c=chosen: _focal_where(c), output=_output),
            SECOND,
        )
    return found


REFUSED = _refused()

SOUND = {
    "activations collected by an object": Variant(mlp, loss=_collected, output=_output),
    "layers left out by torch": Variant(lambda: Skipping(lambda: torch.rand(())).double()),
    "seeded by itself": Variant(
        mlp,
        loss=lambda _: lambda net, b: loss(net, b) * (1 + np.random.RandomState(0).rand()),
    ),
    "seeded in the call": Variant(
        mlp,
        loss=lambda _: (
            lambda net, b: (random.seed(1), loss(net, b) * (1 + 0.1 * random.random()))[1]
        ),
    ),
    "hook of another tensor": Variant(
        _hooked(lambda g, _: g * F.softplus(torch.ones(6, dtype=g.dtype)))
    ),
}
"""Beside them, what is right."""
