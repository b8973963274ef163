"""Losses and models that freeze a part of the module for one term by ``requires_grad``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tests.strangers.inner_training import Losses, normalizing, with_losses
from tests.strangers.plain import loss, mlp


class Pair(nn.Module):
    """A generator and a critic, of which some count their calls."""

    def __init__(self, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.maker = nn.Linear(6, 6)
        self.critic = mlp(nn.Tanh()) if critic is None else critic
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        return self.critic(self.maker(inputs))


class Recurrent(nn.Module):
    """Three pairs of numbers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        return self.last(self.cells(inputs.view(-1, 3, 2))[0][:, -1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.save_for_backward(inputs, weight)
        return inputs * weight

    @staticmethod
    def backward(ctx, cotangent):
        inputs, weight = ctx.saved_tensors
        return cotangent * weight, (cotangent * inputs).sum(0)


class Scaling(nn.Module):
    """A custom function, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        return self.last(_Product.apply(torch.tanh(inputs), self.weight))


def _adversaries(net: Pair, batch: tuple) -> Tensor:
    real = loss(net.critic, batch)
    net.critic.requires_grad_(False)
    made = loss(net.critic, (net.maker(batch[0]), batch[1]))
    net.critic.requires_grad_(True)
    return real + made


def _by_turns(net: Pair, batch: tuple) -> Tensor:
    for parameter in net.maker.parameters():
        parameter.requires_grad = False
    critic = loss(net.critic, batch) - 0.3 * loss(net, batch)
    for parameter in net.maker.parameters():
        parameter.requires_grad = True
    with _frozen(net.critic):
        return critic + loss(net, batch)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    yield
    for parameter, flag in zip(module.parameters(), before, strict=True):
        parameter.requires_grad_(flag)


def _counts_what_trains(net: Pair, batch: tuple) -> Tensor:
    with _frozen(net.critic):
        penalty = sum(p.square().sum() for p in net.parameters() if p.requires_grad)
        return (
            functional_call(net, dict(net.named_parameters()), (batch[0],)).square().mean(1)
            + 0.01 * penalty
        )


def _attacked(net: Pair, batch: tuple) -> Tensor:
    inputs = batch[0].clone().requires_grad_()
    with _frozen(net):
        (slope,) = torch.autograd.grad(loss(net, (inputs, batch[1])).sum(), inputs)
    return loss(net, (batch[0] + 0.3 * functional.normalize(slope, dim=1), batch[1]))


def _later(net: Pair, batch: tuple) -> Tensor:
    net.count += 1
    return _adversaries(net, batch) if net.count > 3 else loss(net, batch)


def _frozen_part(name: str) -> Losses:
    def losses(net: nn.Module, batch: tuple) -> Tensor:
        part = net.get_submodule(name) if name else net.get_parameter("weight")
        part.requires_grad_(False)
        value = loss(net, batch)
        part.requires_grad_(True)
        return value + 0.1 * loss(net, (0.5 * batch[0], batch[1]))

    return losses


def _left_frozen(net: Pair, batch: tuple) -> Tensor:
    net.requires_grad_(True)
    value = loss(net, batch)
    net.critic.requires_grad_(False)
    return value


_FROZEN = {
    "critic": with_losses(_adversaries, Pair),
    "critic, in shards": replace(with_losses(_adversaries, Pair), shards=2, momentum=0.9),
    "critic with batch norm": with_losses(_adversaries, lambda: Pair(normalizing())),
    "by turns": with_losses(_by_turns, Pair),
    "what trains is counted": with_losses(_counts_what_trains, Pair),
    "while an attack is made": with_losses(_attacked, Pair),
    "from a later step on": with_losses(_later, Pair),
    "LSTM": with_losses(_frozen_part("cells"), lambda: Recurrent().double()),
    "given to a custom function": with_losses(_frozen_part(""), lambda: Scaling().double()),
}

SOUND = {f"frozen for a term: {name}": variant for name, variant in _FROZEN.items()}

REFUSED = {
    "left frozen": (
        with_losses(_left_frozen, Pair),
        r"'critic.0.weight' frozen.*frozen_parts.py:\d+",
    ),
}
