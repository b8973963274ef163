"""Strangers' runs whose metagradient is right, each of them somebody's honest use."""

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import (
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from tests.strangers.norms import (
    CalledByParent,
    Frozen,
    Ghost,
    GhostStatistics,
    Norms,
    WithActivation,
    WrittenOut,
)
from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp


class Checkpointed(nn.Module):
    """Recomputes its middle in the backward pass."""

    def __init__(self, how: str, middle: Callable[[], nn.Module] = nn.Tanh) -> None:
        super().__init__()
        self.how = how
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.middle = middle()

    def block(self, hidden: Tensor) -> Tensor:
        return self.middle(self.inner(F.gelu(hidden)))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if not self.training:
            return self.last(self.block(hidden))
        if self.how == "sequential":
            parts = nn.Sequential(nn.GELU(), self.inner, self.middle)
            return self.last(checkpoint_sequential(parts, 2, hidden, use_reentrant=False))
        if self.how == "nested":
            inner = lambda h: checkpoint(self.block, h, use_reentrant=False)  # noqa: E731
            return self.last(checkpoint(inner, hidden, use_reentrant=False))
        if self.how == "selective":
            kept = partial(create_selective_checkpoint_contexts, [torch.ops.aten.addmm.default])
            return self.last(checkpoint(self.block, hidden, use_reentrant=False, context_fn=kept))
        return self.last(checkpoint(self.block, hidden, use_reentrant=self.how == "reentrant"))


class Siamese(nn.Module):
    """One tower under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
        self.right, self.last = self.left, nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.cat([self.left(inputs[:, :3]), self.right(inputs[:, 3:])], 1))


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.transposed = transposed
        if not transposed:
            self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.transposed:
            return self.last(torch.tanh(F.linear(hidden, self.first.weight.t())))
        return self.last(torch.tanh(self.second(hidden)))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


class Listed(nn.Module):
    """Parameters in a list and a dictionary, one without axes and one without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(6, 6) / 3) for _ in range(3)])
        self.named = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(6))})
        self.scale, self.empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(0))
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for weight in self.weights:
            inputs = torch.tanh(inputs @ weight + self.named["bias"])
        return self.last(self.scale * inputs + self.empty.sum())


class Cached(nn.Module):
    """Keeps a table of constants that the first call makes."""

    def __init__(self, as_buffer: bool) -> None:
        super().__init__()
        self.first, self.last, self.as_buffer = nn.Linear(6, 8), nn.Linear(8, 3), as_buffer

    def forward(self, inputs: Tensor) -> Tensor:
        if not hasattr(self, "table"):
            table = torch.cos(torch.arange(8, dtype=inputs.dtype))
            if self.as_buffer:
                self.register_buffer("table", table, persistent=False)
            else:
                self.table = table
        return self.last(torch.tanh(self.first(inputs)) * self.table)


def hooked(change: Callable[[Tensor], Tensor | None], name: str = "0.weight") -> nn.Module:
    """Return a net whose parameter maps its gradient."""
    net = mlp()
    net.get_parameter(name).register_hook(change)
    return net


def _in_place(gradient: Tensor) -> None:
    gradient.mul_(0.5)


def frozen_by_hand() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    net.train = lambda mode=True: net  # the stranger's loop never calls it
    net[1].eval()
    return net


def weight_norm(old: bool, dim: int | None = 0) -> nn.Module:
    apply = nn.utils.weight_norm if old else parametrizations.weight_norm
    return nn.Sequential(apply(nn.Linear(6, 10), dim=dim), nn.GELU(), nn.Linear(10, 3)).double()


def two_hooks() -> nn.Module:
    net = hooked(lambda g: 2 * g)
    net[0].weight.register_hook(lambda g: g - g.mean())
    return net


def pruned() -> nn.Module:
    net = mlp()
    prune.l1_unstructured(net[0], "weight", 0.5)
    return net


class Times(nn.Module):
    """A weight times a factor for each row."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, weight):
        return weight * self.factor


class ForOneCall(nn.Module):
    """A frozen layer whose weight is another one while it is called, as experts' adapters do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.factor = nn.Parameter(torch.linspace(0.5, 1.5, 8)[:, None])
        self.body.weight.requires_grad_(False)

    def forward(self, inputs):
        parametrize.register_parametrization(self.body, "weight", Times(self.factor))
        try:
            with parametrize.cached():
                hidden = self.body(inputs).tanh()
        finally:
            parametrize.remove_parametrizations(self.body, "weight", leave_parametrized=False)
        return self.head(hidden)


def symmetric() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)).double()
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    return net


def orthogonal() -> nn.Module:
    return nn.Sequential(
        parametrizations.orthogonal(nn.Linear(6, 6)), nn.GELU(), nn.Linear(6, 3)
    ).double()


def token_data() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    found = torch.randint(0, 10, (48, 5), generator=drawn)
    found[:, 0] = found[:, 1]
    return found, torch.randint(0, 3, (48,), generator=drawn)


class Words(nn.Module):
    """A mean of embeddings, and a head."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6, **options)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(1))


class Sampled(nn.Module):
    """Draws in evaluation too: the output is seeded as a step is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        return self.last(F.dropout(hidden, 0.3, training=True))


class InputNeedsGradient(nn.Module):
    """Tells its input to require a gradient, as adapters of frozen models do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs.clone().requires_grad_())


def partly(freeze: Callable[[nn.Module], object]) -> nn.Module:
    net = mlp()
    freeze(net)
    return net


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def energy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss with a derivative of its own inside, as of networks for physics."""
    inputs = batch[0].clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(model(inputs).square().sum(), inputs, create_graph=True)
    return loss(model, batch) + 0.01 * slope.square().sum(1)


def after_a_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The losses after a step of gradient descent inside, as of meta-learning."""
    parameters = dict(model.named_parameters())
    with torch.enable_grad():
        inner = F.cross_entropy(functional_call(model, parameters, (batch[0],)), batch[1])
        slopes = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
    pairs = zip(parameters.items(), slopes, strict=True)
    moved = {name: value - 0.1 * slope for (name, value), slope in pairs}
    return F.cross_entropy(functional_call(model, moved, (batch[0],)), batch[1], reduction="none")


MASKED = torch.rand(10, 6, generator=torch.Generator().manual_seed(1)).gt(0.5).double()


MODULES: dict[str, Variant] = {
    "frozen batch norm by train()": Variant(lambda: Frozen().double()),
    "frozen batch norm by hand": Variant(frozen_by_hand),
    "batch norm": Variant(lambda: Norms().double()),
    "batch norm, plain average": Variant(
        lambda: Norms(lambda n: nn.BatchNorm1d(n, momentum=None)).double()
    ),
    "batch norm without affine": Variant(
        lambda: Norms(lambda n: nn.BatchNorm1d(n, affine=False)).double()
    ),
    "batch norm under two names": Variant(lambda: Norms(shared=True).double()),
    "batch norm with activation": Variant(lambda: Norms(WithActivation).double()),
    "batch norm written out": Variant(lambda: Norms(WrittenOut).double()),
    "ghost batch norm": Variant(lambda: Norms(Ghost).double()),
    "ghost batch norm with statistics for each": Variant(lambda: Norms(GhostStatistics).double()),
    "statistics used by the parent": Variant(lambda: CalledByParent().double()),
    "checkpoint": Variant(lambda: Checkpointed("saved tensors").double()),
    "checkpoint, reentrant": Variant(lambda: Checkpointed("reentrant").double()),
    "checkpoint, sequential": Variant(lambda: Checkpointed("sequential").double()),
    "checkpoint, selective": Variant(lambda: Checkpointed("selective").double()),
    "checkpoint, nested": Variant(lambda: Checkpointed("nested").double()),
    "checkpoint with dropout": Variant(
        lambda: Checkpointed("saved tensors", lambda: nn.Dropout(0.3)).double()
    ),
    "checkpoint with batch norm": Variant(
        lambda: Checkpointed("saved tensors", lambda: nn.BatchNorm1d(8)).double()
    ),
    "siamese tower": Variant(lambda: Siamese().double()),
    "one block three times": Variant(
        lambda: nn.Sequential(
            *[nn.Sequential(nn.Linear(6, 6), nn.Tanh())] * 3, nn.Linear(6, 3)
        ).double()
    ),
    "one PReLU twice": Variant(
        lambda: (
            lambda act: nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 3))
        )(nn.PReLU()).double()
    ),
    "tied weights": Variant(lambda: Tied().double()),
    "tied and transposed": Variant(lambda: Tied(transposed=True).double()),
    "weight norm": Variant(lambda: weight_norm(old=False)),
    "weight norm by hook": Variant(lambda: weight_norm(old=True)),
    "weight norm of the whole": Variant(lambda: weight_norm(old=False, dim=None)),
    "weight norm along the second axis": Variant(lambda: weight_norm(old=False, dim=1)),
    "orthogonal": Variant(orthogonal),
    "parametrization for one call": Variant(lambda: ForOneCall().double()),
    "symmetric": Variant(symmetric),
    "pruned": Variant(pruned),
    "lists of parameters": Variant(lambda: Listed().double()),
    "table as a buffer": Variant(lambda: Cached(as_buffer=True).double()),
    "table as an attribute": Variant(lambda: Cached(as_buffer=False).double()),
    "hook that masks": Variant(lambda: hooked(lambda g: g * MASKED)),
    "hook that clips": Variant(lambda: hooked(lambda g: g * (0.05 / g.norm()).clamp(max=1))),
    "hook that flips": Variant(lambda: hooked(lambda g: -g)),
    "hook in place": Variant(lambda: hooked(_in_place)),
    "hook that looks": Variant(lambda: hooked(lambda g: None)),
    "hook on a bias": Variant(lambda: hooked(lambda g: 0 * g, "2.bias")),
    "hook that squares": Variant(lambda: hooked(lambda g: g * g.abs(), "2.weight")),
    "two hooks on one parameter": Variant(two_hooks),
    "hook with momentum": Variant(lambda: hooked(lambda g: g * MASKED), momentum=0.9, rate=0.1),
    "embedding": Variant(lambda: Words().double(), examples=token_data),
    "embedding with padding": Variant(lambda: Words(padding_idx=3).double(), examples=token_data),
    "dropout in evaluation": Variant(lambda: Sampled().double()),
    "input that requires a gradient": Variant(lambda: InputNeedsGradient().double()),
    "first layer frozen": Variant(lambda: partly(lambda net: net[0].requires_grad_(False))),
    "biases frozen": Variant(
        lambda: partly(lambda net: [net[i].bias.requires_grad_(False) for i in (0, 2)])
    ),
    "attribute on a parameter": Variant(
        lambda: partly(lambda net: setattr(net[0].weight, "decay", 0.05)),
        loss=lambda _: lambda m, b: loss(m, b) + m[0].weight.decay * m[0].weight.square().sum(),
    ),
    "penalty over the given module": Variant(
        mlp,
        loss=lambda _: (
            lambda m, b: loss(m, b) + 0.05 * sum(p.square().sum() for p in m.parameters())
        ),
    ),
    "derivative inside the loss": Variant(mlp, loss=lambda _: energy),
    "step inside the loss": Variant(
        lambda: mlp(nn.Tanh()),
        loss=lambda model: lambda m, b: after_a_step(m, b) if m.training else loss(m, b),
    ),
    "step inside the output": Variant(
        lambda: mlp(nn.Tanh()),
        output=lambda _: lambda m: after_a_step(m, tuple(c[NUM_EXAMPLES:] for c in data())).mean(),
    ),
    "derivative inside the output": Variant(
        lambda: mlp(nn.Tanh()),
        output=lambda _: lambda m: energy(m, tuple(c[NUM_EXAMPLES:] for c in data())).mean(),
    ),
    "batch changed in place by the loss": Variant(
        mlp,
        loss=lambda _: lambda m, b: loss(m, (b[0].mul_(1.5), b[1])),
        output=lambda _: lambda m: loss(m, tuple(c[NUM_EXAMPLES:] for c in data())).mean(),
    ),
    "layers frozen in the loss": Variant(
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)
        ).double(),
        loss=lambda _: lambda m, b: (m[1].eval(), loss(m, b))[1],
    ),
    "handed in for evaluation": Variant(lambda: mlp(nn.GELU(), nn.Dropout(0.2)).eval()),
    "called without a graph": Variant(mlp, context=torch.no_grad),
    "called in inference mode": Variant(mlp, context=torch.inference_mode),
    "called with anomaly detection": Variant(mlp, context=torch.autograd.detect_anomaly),
    "called with another default": Variant(mlp, context=default_dtype),
    "momentum": Variant(mlp, momentum=0.9, rate=0.1),
    "module that was trained before": Variant(
        lambda: partly(lambda net: net(data()[0]).sum().backward())
    ),
}
"""What people do with modules, losses and contexts."""
