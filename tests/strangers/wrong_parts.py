"""What strangers' wrong runs are made of: modules, losses and hooks, each with its fault."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from tests.strangers.plain import NUM_EXAMPLES, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())


def penalties() -> dict[str, Callable[[nn.Module], Tensor]]:
    return {
        "squares of all": lambda net: sum(p.square().sum() for p in net.parameters()),
        "absolute values of all": lambda net: sum(p.abs().sum() for p in net.parameters()),
        "norm of one": lambda net: net[0].weight.norm(),
        "singular values of one": lambda net: torch.linalg.svdvals(net[2].weight).sum(),
        "named ones": lambda net: sum(
            p.square().sum() for n, p in net.named_parameters() if "weight" in n
        ),
        "one vector": lambda net: parameters_to_vector(net.parameters()).square().sum(),
        "modules": lambda net: sum(
            m.weight.square().sum() for m in net.modules() if isinstance(m, nn.Linear)
        ),
        "orthogonality": lambda net: (
            (net[2].weight @ net[2].weight.T - torch.eye(3)).square().sum()
        ),
        "a bias": lambda net: net[2].bias.square().sum(),
    }


def detached() -> dict[str, Callable[[nn.Module], Tensor]]:
    return {
        "detached": lambda net: 1 + net[0].weight.detach().square().mean(),
        ".data": lambda net: 1 + net[0].weight.data.norm(),
        "state_dict": lambda net: 1 + net.state_dict()["2.weight"].abs().mean(),
        "no_grad": lambda net: _without(lambda: 1 + net[2].weight.square().sum()),
        "numpy": lambda net: torch.tensor(1 + np.abs(net[0].weight.detach().numpy()).mean()),
        "item": lambda net: 1 + net[2].bias.square().sum().item(),
        "a forward pass": lambda net: _without(lambda: net(_HELD[0]).square().mean() + 1),
    }


def _without(function: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return function()


def trained_outside() -> dict[str, tuple[object, Callable[[object], Tensor]]]:
    drawn = torch.Generator().manual_seed(4)
    make = lambda *shape: torch.randn(*shape, generator=drawn, dtype=torch.float64)  # noqa: E731
    head = nn.Linear(3, 3).double()
    return {
        "a head": (nn.Parameter(make(3, 3)), lambda held: held),
        "a tensor": (make(3, 3).requires_grad_(), lambda held: held),
        "a list": ([nn.Parameter(make(3, 3))], lambda held: held[0]),
        "a dictionary": ({"w": nn.Parameter(make(3, 3))}, lambda held: held["w"]),
        "an object": (SimpleNamespace(w=nn.Parameter(make(3, 3))), lambda held: held.w),
        "a module": (head, lambda held: held.weight),
        "a temperature": (nn.Parameter(make(1)), lambda held: held * torch.eye(3).double()),
        "a view": (nn.Parameter(make(9)), lambda held: held.view(3, 3)),
    }


class Holder(nn.Module):
    """Keeps a reference to its own weight where no module looks."""

    def __init__(self, keep: Callable[[nn.Parameter], object], read: Callable[[object], Tensor]):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.kept, self.read = keep(self.first.weight), read

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.last(torch.tanh(self.first(inputs)))
        return found * (1 + 0.02 * self.read(self.kept).sum())


class Teacher(nn.Module):
    """A second net that follows the first one, inside of the module."""

    def __init__(self, follow: Callable[[nn.Module, nn.Module], None]) -> None:
        super().__init__()
        self.student, self.follow = nn.Linear(6, 3), follow
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.follow(self.teacher, self.student)
        return self.student(inputs) + 0.3 * self.teacher(inputs).tanh()


def by_lerp(teacher: nn.Module, student: nn.Module) -> None:
    with torch.no_grad():
        for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
            own.lerp_(other, 0.1)


def by_data(teacher: nn.Module, student: nn.Module) -> None:
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.data = 0.9 * own.data + 0.1 * other.data


def by_copy(teacher: nn.Module, student: nn.Module) -> None:
    teacher.load_state_dict(student.state_dict())


def by_one(teacher: nn.Module, student: nn.Module) -> None:
    teacher.bias.data.mul_(0.9).add_(student.bias.data, alpha=0.1)


class Kept(nn.Module):
    """Keeps something in a buffer that training moves."""

    def __init__(self, start: Tensor, move: Callable[["Kept", Tensor], None]) -> None:
        super().__init__()
        self.first, self.last, self.move = nn.Linear(6, 8), nn.Linear(8, 3), move
        self.register_buffer("kept", start)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.training:
            with torch.no_grad():
                self.move(self, hidden)
        return self.last(hidden * (1 + 0.1 * self.kept))


class OwnRules(nn.BatchNorm1d):
    """Batch normalization that moves its statistics by rules of its own."""

    rule = "lerp_"

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            mean, variance = input.mean(0), input.var(0, unbiased=False)
            self.follow(mean.detach(), variance.detach())
        return (input - mean) / (variance + self.eps).sqrt() * self.weight + self.bias

    def follow(self, mean: Tensor, variance: Tensor) -> None:
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(variance, 0.1)


class Assigned(OwnRules):
    def follow(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean
        self.running_var = 0.9 * self.running_var + 0.1 * variance


class ByData(OwnRules):
    def follow(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean.data = 0.9 * self.running_mean.data + 0.1 * mean
        self.running_var.data.mul_(0.9).add_(0.1 * variance)


class Copied(OwnRules):
    def follow(self, mean: Tensor, variance: Tensor) -> None:
        with torch.no_grad():
            self.running_mean.copy_(0.9 * self.running_mean + 0.1 * mean)
            self.running_var.copy_(0.9 * self.running_var + 0.1 * variance)


class AddedInPlace(OwnRules):
    def follow(self, mean: Tensor, variance: Tensor) -> None:
        with torch.no_grad():
            self.running_mean += 0.1 * (mean - self.running_mean)
            self.running_var += 0.1 * (variance - self.running_var)


class HalfSquare(torch.autograd.Function):
    """Has a backward pass that keeps its input as a constant."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        ctx.values = values.detach()
        return values.square() / 2

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * ctx.values


class Through(nn.Module):
    """A net with a function of its hidden units."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.change = nn.Linear(6, 10), nn.Linear(10, 3), change

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.change(torch.tanh(self.first(inputs))))


def focal(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    losses = loss(model, batch)
    return losses * (1 - (-losses).exp()).detach()


def bootstrapped(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits = model(batch[0])
    target = logits.softmax(1).detach()
    return loss(model, batch) + 0.5 * F.cross_entropy(logits, target, reduction="none")


def siamese(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    one, other = model(batch[0]), model(batch[0] + 0.1)
    return (one - other.detach()).square().sum(1) + loss(model, batch)


def quantized(hidden: Tensor) -> Tensor:
    return hidden + ((4 * hidden).round() / 4 - hidden).detach()


def per_batch_scale(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    losses = loss(model, batch)
    return losses / losses.mean().detach()


class Counting:
    """A loss that counts its calls."""

    def __init__(self, how: str) -> None:
        self.calls, self.how, self.last = 0, how, None

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        found = loss(model, batch)
        self.calls += 1
        if self.how == "warm-up":
            return found * min(1.0, self.calls / 50)
        if self.how == "momentum":
            mean = found.detach().mean()
            self.last = mean if self.last is None else 0.9 * self.last + 0.1 * mean
            return found / self.last
        return found + 0.1 * (self.calls % 2) * found


class ModeDependent(nn.Module):
    """Computes another function where nobody wants a graph."""

    def __init__(self, by_switch: bool) -> None:
        super().__init__()
        self.net, self.by_switch = mlp(), by_switch

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.net(inputs)
        fast = not torch.is_grad_enabled() if self.by_switch else not found.requires_grad
        return 0.5 * found if fast else found


def noisy(model: nn.Module, batch: tuple[Tensor, Tensor], draw: Callable[[], float]) -> Tensor:
    return loss(model, batch) * (1 + 0.1 * draw())


def follower(model: nn.Module) -> Callable:
    teacher = copy.deepcopy(model)

    def own(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        by_lerp(teacher, net)
        return loss(net, batch) + (net(batch[0]) - teacher(batch[0]).detach()).square().mean(1)

    return own


def queue() -> Callable:
    kept: list[Tensor] = []

    def own(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits = net(batch[0])
        kept.append(logits.detach().mean(0))
        return loss(net, batch) + 0.1 * (logits - torch.stack(kept[-4:]).mean(0)).square().mean(1)

    return own


class SparseWeights(nn.Module):
    """A sparse matrix whose numbers are learned; torch loses how their gradient moves with them."""

    def __init__(self):
        super().__init__()
        self.values, self.last = nn.Parameter(torch.randn(12) / 3), nn.Linear(6, 3)
        self.register_buffer("places", torch.arange(24).view(2, 12) % 6)

    def forward(self, inputs):
        matrix = torch.sparse_coo_tensor(self.places, self.values, (6, 6))
        return self.last(torch.tanh(torch.sparse.mm(matrix, inputs.T).T))
