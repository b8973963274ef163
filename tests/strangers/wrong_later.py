"""Runs that are as they seem at first, and do something else once the training has moved them.

And what reads or writes where a step of the engine has nothing: ``.grad``, a copy of the module,
the mode. ``REFUSED`` is added to ``tests.strangers.wrong.REFUSED``, ``SOUND`` stands beside it.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.utils.data import Dataset

import engine
from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())
_STEPS, _RATE = 24, 1.0


def _output(_: nn.Module) -> Callable[[nn.Module], Tensor]:
    return lambda net: loss(net, _HELD).mean()


class Bounded(nn.Module):
    """Keeps its weights small in the forward pass, once they are not any more."""

    def __init__(self, bound: Callable[[nn.Linear], None]) -> None:
        super().__init__()
        self.first, self.last, self.bound = nn.Linear(6, 10), nn.Linear(10, 3), bound

    def forward(self, inputs: Tensor) -> Tensor:
        """Bound the weight of the first layer, and call both."""
        if self.training:
            self.bound(self.first)
        return self.last(torch.tanh(self.first(inputs)))


def _by_norm(layer: nn.Linear) -> None:
    size = layer.weight.data.norm()
    if size > 2.2:
        layer.weight.data.mul_(2.2 / size)


def _by_numpy(layer: nn.Linear) -> None:
    numbers = layer.weight.detach().numpy()
    np.clip(numbers, -0.46, 0.46, out=numbers)


def _by_assignment(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.clamp(-0.46, 0.46)


def _by_another(layer: nn.Linear) -> None:
    if layer.weight.detach().abs().max() > 0.5:
        layer.weight = nn.Parameter(0.9 * layer.weight.detach())


BOUNDS: dict[str, Callable[[nn.Linear], None]] = {
    "clamp of .data": lambda layer: layer.weight.data.clamp_(-0.46, 0.46),
    "norm of .data": _by_norm,
    "numpy": _by_numpy,
    "assignment of .data": _by_assignment,
    "another parameter": _by_another,
    "renorm": lambda layer: layer.weight.data.renorm_(2, 0, 0.75),
    "copy_": lambda layer: layer.weight.data.copy_(layer.weight.data.clamp(-0.46, 0.46)),
    "a bias": lambda layer: layer.bias.data.clamp_(max=0.46),
}
"""Ways to bound a weight that move nothing in the first steps."""


def _of_the_learned(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    losses = loss(net, batch)
    return losses * torch.where(losses < 0.35, losses.detach(), torch.ones_like(losses))


def _of_a_small_mean(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    losses = loss(net, batch)
    return losses * losses.detach() if losses.mean() < 0.7 else losses


def _of_small_weights(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    size = net[0].weight.norm()
    return loss(net, batch) * (1 + (size.detach() if size < 1.5 else size))


def _of_the_sure(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits = net(batch[0])
    sure = logits.softmax(1).max(1).values > 0.9
    cut = torch.where(sure[:, None], logits * logits.detach(), logits)
    return F.cross_entropy(cut, batch[1], reduction="none")


LATER = {
    "learned examples": _of_the_learned,
    "a small mean": _of_a_small_mean,
    "small weights": _of_small_weights,
    "sure predictions": _of_the_sure,
}
"""Losses that cut something out of the graph from some point on."""


def _reads_gradients(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    found = [p.grad.norm() for p in net.parameters() if p.grad is not None]
    return loss(net, batch) * (1 + 0.1 * sum(found))


def _attacked(derivative: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Callable:
    """Adversarial training by one step along the sign of a gradient."""

    def own(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs = batch[0].clone().requires_grad_()
        with torch.enable_grad():
            found = derivative(net, inputs, loss(net, (inputs, batch[1])).sum())
        return loss(net, (inputs.detach() + 0.1 * found.sign(), batch[1]))

    return own


def _by_backward(net: nn.Module, inputs: Tensor, value: Tensor) -> Tensor:
    value.backward()
    return inputs.grad


def _backward_and_zero(net: nn.Module, inputs: Tensor, value: Tensor) -> Tensor:
    value.backward()
    net.zero_grad()
    return inputs.grad


def _by_grad(net: nn.Module, inputs: Tensor, value: Tensor) -> Tensor:
    return torch.autograd.grad(value, inputs)[0]


def _toward_a_copy(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    with torch.no_grad():
        wanted = copy.deepcopy(net)(batch[0])
    return loss(net, batch) + (net(batch[0]) - wanted).square().sum(1)


def _unfrozen(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    for parameter in net.parameters():
        parameter.requires_grad = True
    return loss(net, batch)


def _into_its_batch(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Scale the batch in place, and cut a factor out of the graph."""
    losses = loss(net, (batch[0].mul_(1.1), batch[1]))
    return losses * losses.detach()


class Merged(nn.Linear):
    """An adapter of low rank that is merged into its weight for evaluation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(0.3 * torch.randn(2, inputs))
        self.up = nn.Parameter(0.3 * torch.randn(outputs, 2))
        self.weight.requires_grad_(False)
        self.merged = False

    def train(self, mode: bool = True) -> nn.Module:
        """Merge before evaluation, and take it back before training."""
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * self.up @ self.down
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Add the product where it is not in the weight."""
        found = F.linear(input, self.weight, self.bias)
        return found if self.merged else found + input @ self.down.T @ self.up.T


class Made(Dataset):
    """A data set that makes each sample by a function of the sample and its index."""

    def __init__(self, columns: tuple[Tensor, ...], make: Callable[[Tensor, int], Tensor]) -> None:
        self.columns, self.make = columns, make

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.make(self.columns[0][index], index), self.columns[1][index]


def _made(make: Callable[[Tensor, int], Tensor]) -> Variant:
    return Variant(mlp, wrapped=lambda columns: Made(columns, make), output=_output)


def _adapted(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss after one step on half of the batch (MAML)."""
    parameters = dict(net.named_parameters())

    def inner(given: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, given, (batch[0][:4],)), batch[1][:4])

    moved = {
        n: p - 0.1 * g
        for (n, p), g in zip(parameters.items(), grad(inner)(parameters).values(), strict=True)
    }
    return F.cross_entropy(functional_call(net, moved, (batch[0],)), batch[1], reduction="none")


def _penalized(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A penalty on the gradient of each example by itself."""
    parameters = dict(net.named_parameters())

    def one(given: dict[str, Tensor], inputs: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, given, (inputs[None],)), label[None])

    found = vmap(grad(one), in_dims=(None, 0, 0))(parameters, *batch)
    return loss(net, batch) + 0.05 * sum(g.flatten(1).square().sum(1) for g in found.values())


def _leave_one_out(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Policy gradients, each sample against the mean of the others."""
    chosen = torch.distributions.Categorical(logits=net(batch[0]))
    actions = chosen.sample((4,))
    won = (actions == batch[1]).double()
    return -(chosen.log_prob(actions) * (won - (won.sum(0) - won) / 3)).mean(0)


IN_PLACE = r"changes a parameter in place|changes '.*' in place|sets the \.data|puts another tensor"


class NowAndThen(nn.Module):
    """Counts its steps, and adds something else to its losses in every seventh."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(nn.Tanh())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.seen: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        if self.training:
            self.count += 1
        return self.net(inputs)


def _every_seventh(change: Callable[[NowAndThen, Tensor], Tensor]) -> Variant:
    """A loss with a penalty that is another one in every seventh step; all others agree."""

    def own(model: NowAndThen, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits = model(batch[0])
        target = logits.softmax(dim=1)
        if model.training and int(model.count) % 7 == 0:
            target = change(model, target)
        penalty = (logits.log_softmax(dim=1) * target).sum(dim=1)
        return F.cross_entropy(logits, batch[1], reduction="none") - penalty

    return Variant(NowAndThen, loss=lambda _: own, output=_output, steps=_STEPS, rate=0.1)


def _without_a_graph(_: NowAndThen, target: Tensor) -> Tensor:
    with torch.no_grad():
        return 1.0 * target


def _looks(model: NowAndThen, target: Tensor) -> Tensor:
    model.seen.append(target.mean().item())
    return target


NOW_AND_THEN = {
    "detach": lambda _, target: target.detach(),
    "no_grad": _without_a_graph,
    "float": lambda _, target: target * float(target.square().sum()),
    "data": lambda _, target: target.data,
}

REFUSED = {
    **{
        f"every seventh step: {name}": (_every_seventh(change), r"comes only now and then")
        for name, change in NOW_AND_THEN.items()
    },
    **{
        f"weight that is bounded later: {name}": (
            Variant(lambda b=bound: Bounded(b).double(), steps=_STEPS, rate=_RATE, output=_output),
            IN_PLACE,
        )
        for name, bound in BOUNDS.items()
    },
    **{
        f"detach that begins later: {name}": (
            Variant(mlp, loss=lambda _, o=own: o, output=_output, steps=30, rate=_RATE),
            r"second derivative",
        )
        for name, own in LATER.items()
    },
    "loss that reads .grad": (
        Variant(mlp, loss=lambda _: _reads_gradients, output=_output),
        r"the \.grad of parameters",
    ),
    "loss that calls backward": (
        Variant(mlp, loss=lambda _: _attacked(_by_backward), output=_output),
        r"writes into the \.grad .*autograd\.grad",
    ),
    "detach beside a batch that is changed in place": (
        Variant(mlp, loss=lambda _: _into_its_batch, output=_output),
        r"second derivative",
    ),
    "adapter merged for evaluation": (
        Variant(
            lambda: nn.Sequential(Merged(6, 10), nn.GELU(), nn.Linear(10, 3)).double(),
            output=_output,
        ),
        r"train\(\) or eval\(\).*merge",
    ),
}

SOUND = {
    "every seventh step: held": _every_seventh(lambda _, target: engine.stop_gradient(target)),
    "every seventh step: looked at": _every_seventh(_looks),
    "samples by what the index is": _made(lambda x, index: -x if index in {3, 7, 11} else x),
    "samples with noise of torch": _made(lambda x, _: x + 0.1 * torch.randn_like(x)),
    "samples that are flipped rarely": _made(lambda x, _: -x if torch.rand(()) < 0.02 else x),
    "samples normalized by themselves": _made(lambda x, _: x / x.norm()),
    "attack along a sign": Variant(mlp, loss=lambda _: _attacked(_by_grad), output=_output),
    "attack that clears its gradients": Variant(
        mlp, loss=lambda _: _attacked(_backward_and_zero), output=_output
    ),
    "adapted by torch.func": Variant(
        lambda: mlp(nn.Tanh()), loss=lambda _: _adapted, output=_output
    ),
    "gradients of single examples": Variant(
        lambda: mlp(nn.Tanh()), loss=lambda _: _penalized, output=_output
    ),
    "copy made in the loss": Variant(mlp, loss=lambda _: _toward_a_copy, output=_output),
    "parameters thawed in the loss": Variant(mlp, loss=lambda _: _unfrozen, output=_output),
    "policy gradients": Variant(mlp, loss=lambda _: _leave_one_out, output=_output),
}
