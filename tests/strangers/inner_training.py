"""Losses, models and outputs that copy the module, or train inside.

Each copy is a constant of its step, and moves from step to step; so does a gradient that an inner
step takes without a graph.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())
Losses = Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]


def with_losses(losses: Losses, make: Callable[[], nn.Module] = mlp) -> Variant:
    """Return a run with a loss; its output is the plain one."""
    return Variant(
        make, loss=lambda _: losses, output=lambda _: lambda net: loss(net, _HELD).mean()
    )


def _dropping() -> nn.Module:
    return mlp(nn.GELU(), nn.Dropout(0.2))


def normalizing() -> nn.Module:
    """Return a net with batch normalization."""
    return mlp(nn.BatchNorm1d(10), nn.GELU())


def _apart(net: nn.Module, wanted: Tensor, batch: tuple) -> Tensor:
    return loss(net, batch) + (net(0.9 * batch[0]) - wanted).square().mean(1)


def _without_graph(net: nn.Module, batch: tuple) -> Tensor:
    teacher = copy.deepcopy(net)
    with torch.no_grad():
        wanted = teacher(batch[0])
    return _apart(net, wanted, batch)


def _frozen_copy(net: nn.Module, batch: tuple) -> Tensor:
    teacher = copy.deepcopy(net).eval()
    for parameter in teacher.parameters():
        parameter.requires_grad = False
    return _apart(net, teacher(batch[0]), batch)


def _trainable_copy(net: nn.Module, batch: tuple) -> Tensor:
    return _apart(net, copy.deepcopy(net)(batch[0]), batch)


def _called_with_own(net: nn.Module, batch: tuple) -> Tensor:
    params = {name: 0.9 * p for name, p in net.named_parameters()}
    return _apart(net, functional_call(copy.deepcopy(net), params, (batch[0],)), batch)


def _changed(change: Callable[[nn.Module, nn.Module], object]) -> Losses:
    """Compare with a copy that was changed without a graph."""

    def losses(net: nn.Module, batch: tuple) -> Tensor:
        other = copy.deepcopy(net)
        change(other, net)
        with torch.no_grad():
            wanted = other(batch[0])
        return _apart(net, wanted, batch)

    return losses


def _noisy(other: nn.Module, _: nn.Module) -> None:
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def _scaled_data(other: nn.Module, _: nn.Module) -> None:
    for parameter in other.parameters():
        parameter.data.mul_(0.9)


def _assigned_data(other: nn.Module, net: nn.Module) -> None:
    for parameter, own in zip(other.parameters(), net.parameters(), strict=True):
        parameter.data = 0.5 * own.data


def _loaded(other: nn.Module, net: nn.Module) -> None:
    other.load_state_dict({name: 0.5 * value for name, value in net.state_dict().items()})


def _copied_part(net: nn.Module, batch: tuple) -> Tensor:
    first = copy.deepcopy(net.get_submodule("0"))
    apart = net.get_submodule("0")(0.9 * batch[0]) - first(batch[0]).detach()
    return loss(net, batch) + apart.square().mean(1)


def _called_before(net: nn.Module, batch: tuple) -> Tensor:
    outputs = net(batch[0])
    with torch.no_grad():
        wanted = copy.deepcopy(net)(batch[0])
    return cross_entropy(outputs, batch[1], reduction="none") + (outputs - wanted).abs().mean(1)


def _trained(make: Callable[..., optim.Optimizer], steps: int = 2) -> Losses:
    """Compare with a copy that an optimizer of torch has trained."""

    def losses(net: nn.Module, batch: tuple) -> Tensor:
        other = copy.deepcopy(net)
        optimizer = make(other.parameters())
        for _ in range(steps):
            optimizer.zero_grad()
            loss(other, batch).mean().backward()
            nn.utils.clip_grad_norm_(other.parameters(), 0.5)
            optimizer.step()
        pull = sum(
            (own - moved.detach()).square().sum()
            for own, moved in zip(net.parameters(), other.parameters(), strict=True)
        )
        return _apart(net, other(batch[0]).detach(), batch) + pull

    return losses


def _stays_near(net: nn.Module, batch: tuple) -> Tensor:
    other = copy.deepcopy(net)
    before = [parameter.data.clone() for parameter in other.parameters()]
    for _ in range(2):
        pairs = zip(other.parameters(), before, strict=True)
        value = loss(other, batch).mean() + sum((p - q).square().sum() for p, q in pairs)
        slopes = torch.autograd.grad(value, list(other.parameters()))
        for parameter, slope in zip(other.parameters(), slopes, strict=True):
            parameter.data.sub_(0.2 * slope)
    return _apart(net, other(batch[0]).detach(), batch)


def _average_made_anew(net: nn.Module, batch: tuple) -> Tensor:
    average = optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    with torch.no_grad():
        wanted = average(batch[0])
    return _apart(net, wanted, batch)


class _Holder:
    """An object beside the loss that has the module."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.weight = net, 1.0


def _copied_holder(net: nn.Module, batch: tuple) -> Tensor:
    other = copy.deepcopy(_Holder(net))
    other.weight = 0.5
    return other.weight * _apart(net, other.net(batch[0]).detach(), batch)


class CopiesItself(nn.Module):
    """Adds what a copy of its body answers, without a graph, while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        if not self.training:
            return self.body(inputs)
        with torch.no_grad():
            other = copy.deepcopy(self.body)(inputs)
        return self.body(inputs) + 0.1 * other


def _fine_tuned(net: nn.Module) -> Tensor:
    other = copy.deepcopy(net)
    optimizer = optim.SGD(other.parameters(), lr=0.5)
    with torch.enable_grad():
        loss(other, _HELD).mean().backward()
    optimizer.step()
    return loss(other, _HELD).mean()


def _adapted(steps: int = 1, *, of: Callable[[Tensor], Tensor] = lambda p: p) -> Losses:
    """Return the losses after inner steps whose gradients are taken without a graph."""

    def losses(net: nn.Module, batch: tuple) -> Tensor:
        fast = {name: of(p) for name, p in net.named_parameters()}
        for _ in range(steps):
            value = cross_entropy(functional_call(net, fast, (batch[0],)), batch[1])
            slopes = torch.autograd.grad(value, list(fast.values()))
            fast = {n: p - 0.3 * s for (n, p), s in zip(fast.items(), slopes, strict=True)}
        moved = {n: p + (fast[n] - p).detach() for n, p in net.named_parameters()}
        return cross_entropy(functional_call(net, moved, (batch[0],)), batch[1], reduction="none")

    return losses


def _leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().clone().requires_grad_()


def _by_an_optimizer(net: nn.Module, batch: tuple) -> Tensor:
    fast = {name: _leaf(p) for name, p in net.named_parameters()}
    optimizer = optim.SGD(list(fast.values()), lr=0.3)
    cross_entropy(functional_call(net, fast, (batch[0],)), batch[1]).backward()
    optimizer.step()
    moved = {n: p + (fast[n] - p).detach() for n, p in net.named_parameters()}
    return cross_entropy(functional_call(net, moved, (batch[0],)), batch[1], reduction="none")


def _balanced(net: nn.Module, batch: tuple) -> Tensor:
    one, other, weight = (
        loss(net, batch),
        net(batch[0]).square().mean(1),
        net.get_parameter("2.weight"),
    )
    sizes = [
        torch.autograd.grad(v.mean(), weight, retain_graph=True)[0].norm() for v in (one, other)
    ]
    return one + other * (sizes[0] / sizes[1])


def _adapted_output(net: nn.Module) -> Tensor:
    with torch.enable_grad():
        params = dict(net.named_parameters())
        slopes = torch.autograd.grad(loss(net, _HELD).mean(), list(params.values()))
        moved = {n: p - 0.5 * s for (n, p), s in zip(params.items(), slopes, strict=True)}
        return cross_entropy(functional_call(net, moved, (_HELD[0],)), _HELD[1])


_BEFORE = with_losses(_called_before, normalizing)
_COPIES = {
    "without a graph": with_losses(_without_graph, _dropping),
    "frozen": with_losses(_frozen_copy),
    "trainable": with_losses(_trainable_copy),
    "called with other parameters": with_losses(_called_with_own),
    "noise added": with_losses(_changed(_noisy)),
    ".data in place": with_losses(_changed(_scaled_data)),
    ".data assigned": with_losses(_changed(_assigned_data)),
    "loaded": with_losses(_changed(_loaded)),
    "of a part": with_losses(_copied_part),
    "after a call": _BEFORE,
    "after a call, in shards": replace(_BEFORE, shards=2, momentum=0.9, rate=0.1),
    "in evaluation mode": with_losses(_frozen_copy, normalizing),
    "trained by SGD": with_losses(
        _trained(lambda params: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1))
    ),
    "trained by Adam": with_losses(_trained(lambda params: optim.Adam(params, lr=0.05, eps=0.01))),
    "trained by AdamW, dropout": with_losses(
        _trained(lambda params: optim.AdamW(params, lr=0.05, eps=0.01)), _dropping
    ),
    "trained near its start": with_losses(_stays_near),
    "as an average": with_losses(_average_made_anew),
    "of an object that has it": with_losses(_copied_holder),
    "in the model": Variant(CopiesItself),
    "in the output": Variant(mlp, output=lambda _: _fine_tuned),
}
_STEPS = {
    "one": with_losses(_adapted(), _dropping),
    "three": with_losses(_adapted(3)),
    "of leaves": with_losses(_adapted(of=_leaf)),
    "of clones": with_losses(_adapted(2, of=torch.clone)),
    "by an optimizer": with_losses(_by_an_optimizer),
    "weights by gradients": with_losses(_balanced),
    "in the output": Variant(mlp, output=lambda _: _adapted_output),
}

SOUND = {
    **{f"copy inside: {name}": variant for name, variant in _COPIES.items()},
    **{f"steps inside: {name}": variant for name, variant in _STEPS.items()},
}


def _backward_of_all(net: nn.Module, batch: tuple) -> Tensor:
    other = copy.deepcopy(net)
    (loss(other, batch).mean() + loss(net, batch).mean()).backward()
    return loss(net, batch)


REFUSED = {
    "backward() of the copy and of the module": (
        with_losses(_backward_of_all),
        r"alone: copy.deepcopy",
    ),
}
