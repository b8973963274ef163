"""Strangers' runs that map the gradient of an activation to another one, as torch lets them.

Hooks of tensors and of modules, and custom functions whose forward changes no value: a gradient
reversal, a gradient that is scaled, clipped or normalized on its way back.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import GradientEdge, Node

from tests.strangers.plain import Variant, mlp

Change = Callable[[Tensor], Tensor]


class Reversal(Function):
    """Reverses gradients, as for adversarial domains."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float | Tensor = 0.3) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


class Itself(Function):
    """Clips gradients, and returns what it was given."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clamp(-0.01, 0.02)


class ByParts(Function):
    """In torch's newer form."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * gradient.abs().sqrt()


class Pair(Function):
    """Two values, each with a map of its own, beside a number that has none."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, flag: bool) -> tuple[Tensor, Tensor]:
        return one.clone(), 1 * other

    @staticmethod
    def backward(ctx: Any, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, None]:
        return 2 * one, -other, None


class IntoItself(Function):
    """Writes into what it is given."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.mark_dirty(values)
        return values.mul_(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Own(Function):
    """A function with its derivative, written by hand."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, value: Change, slope: Change) -> Change:
        kind = type("Own", (cls,), {"value": staticmethod(value), "slope": staticmethod(slope)})

        def forward(ctx: Any, values: Tensor) -> Tensor:
            ctx.save_for_backward(values)
            return value(values)

        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * slope(*ctx.saved_tensors)

        kind.forward, kind.backward = staticmethod(forward), staticmethod(backward)
        return kind.apply


class Through(nn.Module):
    """A net with a function of its hidden units, which may all be 0 at first."""

    def __init__(self, change: Change, zero: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.change = nn.Linear(6, 10), nn.Linear(10, 3), change
        if zero:
            nn.init.zeros_(self.first.weight)
            nn.init.zeros_(self.first.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        return self.last(self.change(hidden) + hidden)


class Recurrent(nn.Module):
    """Clips the gradient that goes back in time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRUCell(2, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs.new_zeros(len(inputs), 6)
        for part in inputs.split(2, dim=1):
            hidden = self.cell(part, hidden)
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: gradient.clamp(-0.003, 0.003))
        return self.last(hidden)


class Read(nn.Module):
    """Has a hook that reads what moves: a weight, or a statistic of the forward pass."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.last, self.what = nn.Linear(6, 8), nn.Linear(8, 3), what
        self.register_buffer("mean", torch.ones(8))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(hidden.abs().mean(0), alpha=0.1)
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient * self.factor(hidden))
        return self.last(1.0 * hidden)

    def factor(self, hidden: Tensor) -> Tensor:
        if self.what == "weight":
            return self.last.weight.norm()
        return hidden.abs() if self.what == "activation" else 1 / (self.mean + 0.1)


class Adversary(nn.Module):
    """Two heads, one of which the body learns to deceive."""

    def __init__(self, between: Change) -> None:
        super().__init__()
        self.body, self.labels, self.domains = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.between = between

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(inputs))
        domains = self.domains(self.between(hidden)).log_softmax(1)
        return self.labels(hidden) + domains[:, :1]


class Counting:
    """Scales gradients, by another number at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        """Count, and scale."""
        self.calls += 1
        return gradient * (1 + 0.1 * (self.calls % 7))


def hooked(change: Callable[[Tensor], Tensor | None]) -> Change:
    """Return the identity, with a hook."""

    def operation(hidden: Tensor) -> Tensor:
        if hidden.requires_grad:
            hidden.register_hook(change)
        return 1.0 * hidden

    return operation


def with_backward_hook(which: int, kind: str) -> nn.Module:
    """Return a net whose layer halves a gradient in a hook of this kind."""
    net = mlp(nn.Tanh())
    halved = lambda grads: tuple(None if g is None else 0.5 * g for g in grads)  # noqa: E731 (three kinds take it)
    if kind == "before":
        net[which].register_full_backward_pre_hook(lambda _, out: halved(out))
    elif kind == "legacy":
        net[which].register_backward_hook(lambda _, inputs, out: halved(inputs))
    else:
        net[which].register_full_backward_hook(lambda _, inputs, out: halved(inputs))
    return net


def by_a_node(change: Change, kind: str = "after") -> Change:
    """Return the identity, with a hook of its node or of the one before it."""

    def operation(hidden: Tensor) -> Tensor:
        hidden = 1.0 * hidden.sin()
        node: Any = hidden.grad_fn
        if node is None:
            return hidden
        if kind == "before":
            node.register_prehook(lambda outer: (change(outer[0]),))
        elif kind == "of the node before":
            node.next_functions[0][0].register_hook(lambda inner, _: (change(inner[0]),))
        elif kind == "taken away":
            node.register_hook(lambda inner, _: (0 * inner[0],)).remove()
        else:
            node.register_hook(lambda inner, _: (change(inner[0]), *inner[1:]))
        return hidden

    return operation


def by_an_edge(hidden: Tensor) -> Tensor:
    """Take a derivative by an edge of the graph, whose node torch wants as it is."""
    hidden = 1.0 * hidden.sin()
    node: Any = hidden.grad_fn
    if node is None:
        return 1 + 2 * hidden
    assert isinstance(node, Node)
    assert node.name() == "MulBackward0"
    edge = GradientEdge(node, 0)
    return 1 + torch.autograd.grad((hidden * hidden).sum(), [edge], create_graph=True)[0]


class Followed(nn.Module):
    """Keeps an average, and has a hook of a node beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, hidden: Tensor) -> Tensor:
        """Take the average away."""
        if self.training:
            with torch.no_grad():
                now = hidden.mean(0)
                assert now.grad_fn is None
                self.mean.mul_(0.9).add_(now, alpha=0.1)
        return by_a_node(lambda g: g * g.abs())(hidden - self.mean)


def _own() -> dict[str, Change]:
    return {
        "a square": Own.of(torch.square, lambda x: 2 * x),
        "swish": Own.of(
            lambda x: x * x.sigmoid(), lambda x: x.sigmoid() * (1 + x * (1 - x.sigmoid()))
        ),
        "a rectifier": Own.of(torch.relu, lambda x: (x > 0).to(x)),
        "a sine": Own.of(torch.sin, torch.cos),
        "a bound": Own.of(lambda x: x.clamp(-0.4, 0.4), lambda x: (x.abs() < 0.4).to(x)),
        "the identity": Own.of(torch.clone, torch.ones_like),
    }


_CHANGES: dict[str, Change] = {
    "reversal": Reversal.apply,
    "reversal by a number": lambda hidden: Reversal.apply(hidden, 0.7),
    "reversal by a tensor": lambda hidden: Reversal.apply(hidden, torch.tensor(0.7)),
    "clipped by what returns its input": Itself.apply,
    "a map in torch's newer form": ByParts.apply,
    "two values": lambda hidden: sum(Pair.apply(hidden, hidden.sin(), True)),
    "hook that halves": hooked(lambda g: 0.5 * g),
    "hook that clips": hooked(lambda g: g.clamp(-0.01, 0.01)),
    "hook that flips": hooked(lambda g: -g),
    "hook that normalizes": hooked(lambda g: g / (g.norm(dim=1, keepdim=True) + 0.01)),
    "hook that looks": hooked(lambda g: None),
    "hook that masks": hooked(lambda g: g * (g.detach().abs() > 1e-3)),
}

SOUND = {
    **{
        f"mapped gradient: {n}": Variant(lambda c=c: Through(c).double())
        for n, c in _CHANGES.items()
    },
    **{
        f"own function, {where}: {name}": Variant(lambda c=c, z=z: Through(c, z).double())
        for where, z in (("anywhere", False), ("where all is 0 at first", True))
        for name, c in _own().items()
    },
    **{
        f"backward hook on layer {which}: {kind}": Variant(
            lambda w=which, k=kind: with_backward_hook(w, k)
        )
        for kind in ("full", "before", "legacy")
        for which in (1, 2)
    },
    **{
        f"mapped gradient: by a {what}": Variant(lambda w=what: Read(w).double())
        for what in ("weight", "activation", "statistic")
    },
    "mapped gradient: back in time": Variant(lambda: Recurrent().double()),
    "mapped gradient: adversarial domains": Variant(lambda: Adversary(Reversal.apply).double()),
    "mapped gradient: with momentum": Variant(
        lambda: Through(Itself.apply).double(), momentum=0.9, rate=0.1
    ),
    **{
        f"mapped gradient: a node's hook, {kind}": Variant(
            lambda k=kind: Through(by_a_node(lambda g: g * g.abs() - g, k)).double()
        )
        for kind in ("after", "before", "of the node before", "taken away")
    },
    "mapped gradient: an edge of the graph": Variant(lambda: Through(by_an_edge).double()),
    "mapped gradient: a node's hook beside a buffer": Variant(lambda: mlp(nn.Tanh(), Followed())),
    "mapped gradient: a node's hook in shards": Variant(
        lambda: Through(by_a_node(lambda g: g * g.abs())).double(), shards=2
    ),
    "mapped gradient: in shards": Variant(
        lambda: Through(hooked(lambda g: g * g.abs())).double(), shards=2
    ),
}
"""Right: a product with the derivative of a gradient sees the value alone."""

REFUSED = {
    "mapped gradient: detached in a node's hook": (
        Variant(lambda: Through(by_a_node(lambda g: g * g.detach().abs())).double()),
        r"second derivative.*detach\(\) at .*mapped_gradients.py",
    ),
    "mapped gradient: a node's hook that counts": (
        Variant(lambda: Through(by_a_node(Counting())).double()),
        "reads or changes something",
    ),
    "mapped gradient: detached in the hook": (
        Variant(lambda: Through(hooked(lambda g: g * g.detach().abs())).double()),
        r"second derivative.*detach\(\) at .*mapped_gradients.py",
    ),
}
"""What lacks a derivative of its own, or is another function at every call."""
