"""Runs whose authors hold constant, within a step, what moves with the parameters.

Each is a function of how they do it: by ``detach()`` it is refused, and by ``stop_gradient`` right.
Layers that only some of the steps train are held by the others: what is held has moved before, or
will later.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.functional import cross_entropy

import engine
from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp

Stop = Callable[[Tensor], Tensor]
_HELD = tuple(column[NUM_EXAMPLES:] for column in data())


class Through(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, hidden: Tensor) -> Tensor:
        """Call it."""
        return self.function(hidden)


def _layer(of: Callable[[Stop], Callable[[Tensor], Tensor]]) -> Callable[[Stop], Variant]:
    return lambda stop: Variant(lambda: mlp(nn.Tanh(), Through(of(stop))))


def _loss(of: Callable[[Stop], Callable]) -> Callable[[Stop], Variant]:
    return lambda stop: Variant(
        mlp, loss=lambda _: of(stop), output=lambda _: lambda net: loss(net, _HELD).mean()
    )


def _weighted(weights: Callable[[Tensor], Tensor]) -> Callable[[Stop], Callable]:
    def of(stop: Stop) -> Callable:
        def weighted(net: nn.Module, batch: tuple) -> Tensor:
            losses = loss(net, batch)
            return stop(weights(losses)) * losses

        return weighted

    return of


def _siamese(stop: Stop) -> Callable:
    def siamese(net: nn.Module, batch: tuple) -> Tensor:
        one, other = net(batch[0]), net(batch[0] + 0.1)
        towards = functional.cosine_similarity(one, stop(other), dim=1)
        return 1 - towards + 0.1 * loss(net, batch)

    return siamese


def _learned_by_reward(stop: Stop) -> Callable:
    def losses(net: nn.Module, batch: tuple) -> Tensor:
        value = net(batch[0]).gather(1, batch[1][:, None])[:, 0]
        best = net(batch[0].roll(1, 0)).max(1).values
        return (value - 1 - 0.9 * stop(best)).square()

    return losses


def _sharpness_aware(stop: Stop) -> Callable:
    def losses(net: nn.Module, batch: tuple) -> Tensor:
        params = dict(net.named_parameters())
        value = cross_entropy(functional_call(net, params, (batch[0],)), batch[1])
        slopes = torch.autograd.grad(value, list(params.values()), create_graph=True)
        pairs = zip(params.items(), slopes, strict=True)
        moved = {name: p + 0.5 * stop(slope) for (name, p), slope in pairs}
        return cross_entropy(functional_call(net, moved, (batch[0],)), batch[1], reduction="none")

    return losses


def _teaches_itself(stop: Stop) -> Callable:
    def losses(net: nn.Module, batch: tuple) -> Tensor:
        noisy = net(batch[0] + 0.1 * torch.randn_like(batch[0]))
        return loss(net, batch) + (noisy - stop(net(batch[0]))).square().sum(1)

    return losses


def _attacked(stop: Stop) -> Callable:
    def losses(net: nn.Module, batch: tuple) -> Tensor:
        inputs = batch[0].clone().requires_grad_()
        value = loss(net, (inputs, batch[1])).sum()
        (slope,) = torch.autograd.grad(value, inputs, create_graph=True)
        away = batch[0] + 0.5 * stop(functional.normalize(slope, dim=1))
        return loss(net, (away, batch[1]))

    return losses


def _written_into(stop: Stop) -> Callable[[Tensor], Tensor]:
    return lambda hidden: hidden * stop(hidden + 0).mul_(2)


HELD: dict[str, Callable[[Stop], Variant]] = {
    "rounding that lets gradients through": _layer(
        lambda stop: lambda hidden: hidden + stop((4 * hidden).round() / 4 - hidden)
    ),
    "gradient reversal": _layer(lambda stop: lambda hidden: -hidden + stop(2 * hidden)),
    "a gradient that is scaled": _layer(lambda stop: lambda h: 0.3 * h + stop(0.7 * h)),
    "a factor": _layer(lambda stop: lambda hidden: hidden * stop(hidden)),
    "a norm": _layer(lambda stop: lambda h: h / stop(h.norm(dim=1, keepdim=True))),
    "a value that is written into": _layer(_written_into),
    "focal weights": _loss(_weighted(lambda losses: (1 - (-losses).exp()) ** 2)),
    "weights of the worst groups": _loss(_weighted(lambda losses: losses.softmax(0))),
    "the other tower": _loss(_siamese),
    "a target of rewards": _loss(_learned_by_reward),
    "the direction of the sharpest rise": _loss(_sharpness_aware),
    "a teacher that is the model": _loss(_teaches_itself),
    "an attack along the gradient": _loss(_attacked),
}
"""What is held, and the run for a way to hold it."""


def _detached(hidden: Tensor) -> Tensor:
    return hidden.detach()


class _Counted(nn.Module):
    """Two layers, and a counter of the calls in training."""

    def __init__(self, hold: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.hold = nn.Linear(6, 10), nn.Linear(10, 3), hold
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def held(self) -> bool:
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.training:
            self.count += 1
            if self.held():
                hidden = self.hold(hidden)
        return self.last(hidden)


class Unfrozen(_Counted):
    """The first layer is trained from the fourth step on."""

    def held(self) -> bool:
        return int(self.count) <= 3


class FrozenLater(_Counted):
    """The first layer is trained in the first three steps only."""

    def held(self) -> bool:
        return int(self.count) > 3


class Always(_Counted):
    """The first layer is never trained: it stays as it was drawn."""

    def held(self) -> bool:
        return True


class ByTurns(_Counted):
    """One step trains the first layer, and the next one the last layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if not self.training:
            return self.last(hidden)
        self.count += 1
        if int(self.count) % 2:
            return functional.linear(hidden, self.hold(self.last.weight), self.hold(self.last.bias))
        return self.last(self.hold(hidden))


_LAYERS = {
    "trained from a later step on": Unfrozen,
    "trained up to a step": FrozenLater,
    "by turns": ByTurns,
}

SOUND: dict[str, Variant] = {
    **{
        f"held for steps: {name}": Variant(lambda k=kind: k(engine.stop_gradient).double())
        for name, kind in {**_LAYERS, "always": Always}.items()
    },
}

REFUSED: dict[str, tuple[Variant, str]] = {
    f"held for steps by detach(): {name}": (
        Variant(lambda k=kind: k(_detached).double(), steps=8),
        r"stop_gradient\(x\) in place of x.detach\(\)",
    )
    for name, kind in {**_LAYERS, "always": Always}.items()
}
