"""More of what people write that is right: graphs as sparse matrices, targets, adapters."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import engine
from tests.strangers.carried import WIDTH, ZEROS, moves
from tests.strangers.plain import NUM_EXAMPLES, Variant, around, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())


def _output(_: nn.Module) -> Callable[[nn.Module], Tensor]:
    return lambda net: loss(net, _HELD).mean()


class Graph(nn.Module):
    """Messages along the edges of one graph, whose matrix is a sparse buffer, or an attribute."""

    def __init__(self, layout: torch.layout, *, is_buffer: bool = True) -> None:
        super().__init__()
        drawn = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)).gt(0.5).double()
        matrix = (drawn + torch.eye(6)).to_sparse(layout=layout)
        if is_buffer:
            self.register_buffer("matrix", matrix)
        else:
            self.matrix = matrix
        self.first, self.last = nn.Linear(1, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits for each graph."""
        hidden = torch.sparse.mm(self.matrix, inputs.T).T / 3
        return self.last(F.gelu(self.first(hidden[..., None])).mean(1))


def _by_parts(cut: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable:
    def does(net, hidden):
        if net.training:
            with torch.no_grad():
                for part in cut(net.kept):
                    part.lerp_(hidden[:, : len(part)].mean(0), 0.2)
        return hidden - net.kept

    return does


def _row_by_row(net, hidden):
    if net.training:
        for row, mean in zip(net.kept, hidden.detach()[:3], strict=True):
            row.mul_(0.9).add_(mean, alpha=0.1)
    return hidden - net.kept.mean(0)


class Valued(nn.Module):
    """Action values, and a frozen copy of them that is the target."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.target = mlp(nn.Tanh()), mlp(nn.Tanh()).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the value of each action."""
        return self.values(inputs)


def _loaded(net: Valued) -> None:
    net.target.load_state_dict(net.values.state_dict())


def _loaded_sometimes(net: Valued) -> None:
    if net.count % 2 == 0:
        _loaded(net)
    net.count += 1


def _loaded_mixture(net: Valued) -> None:
    held, moved = net.target.state_dict(), net.values.state_dict()
    net.target.load_state_dict({n: 0.9 * t + 0.1 * moved[n] for n, t in held.items()})


def _as_a_vector(net: Valued) -> None:
    vector = nn.utils.parameters_to_vector(net.values.parameters()).detach()
    nn.utils.vector_to_parameters(vector, net.target.parameters())


def _learning(follow: Callable[[Valued], None]) -> Variant:
    def own(net: Valued, batch: tuple[Tensor, Tensor]) -> Tensor:
        states, actions = batch
        if net.training:
            follow(net)
        with torch.no_grad():
            wanted = states[:, 0] + 0.9 * net.target(states.roll(1, 1)).max(1).values
        taken = net(states).gather(1, actions[:, None])[:, 0]
        return F.smooth_l1_loss(taken, wanted, reduction="none")

    return Variant(Valued, loss=lambda _: own, output=_output)


class DroppedWeights(nn.Module):
    """A recurrent layer whose own weight is taken out, and set anew with dropout at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(2, 5, batch_first=True), nn.Linear(5, 3)
        weight = self.layer._parameters.pop("weight_hh_l0")
        self.raw = nn.Parameter(weight.data)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        self.layer.weight_hh_l0 = F.dropout(self.raw, 0.3, self.training)
        return self.head(self.layer(inputs.view(-1, 3, 2))[0][:, -1])


class Momentum(nn.Module):
    """Batch normalization whose momentum falls with a counter, as of networks for point clouds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        if self.training:
            self.count += 1
            self.norm.momentum = max(0.5 * 0.7 ** int(self.count), 0.01)
        return self.last(torch.tanh(self.norm(self.first(inputs))))


class Stacked(nn.Module):
    """Several nets as one, mapped over their stacked parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp() for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean of their logits."""
        each = [dict(net.named_parameters()) for net in self.nets]
        rows = {name: torch.stack([one[name] for one in each]) for name in each[0]}
        call = torch.func.functional_call
        return torch.func.vmap(lambda row: call(self.nets[0], row, (inputs,)))(rows).mean(0)


class Normalized(nn.Module):
    """Inputs by running moments that are replaced at each call, as of agents that learn."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))
        self.register_buffer("var", torch.ones(6, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        if self.training:
            mean, var, new = inputs.mean(0), inputs.var(0, unbiased=False), len(inputs)
            away, total = mean - self.mean, self.count + new
            both = self.var * self.count + var * new + away**2 * self.count * new / total
            self.mean, self.var, self.count = self.mean + away * new / total, both / total, total
        return self.net((inputs - self.mean) / (self.var + 1e-8).sqrt())


class Rescaled(nn.Module):
    """An adapter whose size is learned beside its direction, the norm held constant."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 10).requires_grad_(False), nn.Linear(10, 3)
        self.down, self.up = nn.Parameter(torch.randn(2, 6) / 3), nn.Parameter(torch.zeros(10, 2))
        self.size = nn.Parameter(self.body.weight.norm(dim=1).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        weight = self.body.weight + 2 * self.up @ self.down
        norm = engine.stop_gradient(weight.norm(dim=1, keepdim=True))
        return self.head(F.gelu(inputs @ (self.size[:, None] * weight / norm).T))


class Online(nn.Module):
    """A student with batch normalization, and a teacher that follows by assignment of .data."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        return self.student(inputs)


def _taught(net: Online, batch: tuple[Tensor, Tensor]) -> Tensor:
    losses = loss(net, batch)
    if not net.training:
        return losses
    with torch.no_grad():
        pairs = zip(net.student.parameters(), net.teacher.parameters(), strict=True)
        for own, followed in pairs:
            followed.data = 0.9 * followed.data + 0.1 * own.data
        wanted = F.normalize(net.teacher(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1)
    found = F.normalize(net(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1)
    return losses + 2 - 2 * (found * wanted).sum(1)


def _derived(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A penalty on slopes that asks for no graph, since it is trained with one."""
    inputs = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(inputs).square().sum(), inputs, create_graph=True)
    return loss(net, batch) + 0.01 * slope.square().sum(1)


DERIVED = Variant(lambda: mlp(nn.Tanh()), loss=lambda _: _derived, output=_output)


class Exchanged(nn.Module):
    """A layer whose weight is another one for the call: halved, dropped out, or made of others."""

    def __init__(self, change: Callable[[Tensor, bool], Tensor], *, twice: bool = False) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.change, self.twice = change, twice

    def _once(self, inputs: Tensor) -> Tensor:
        weight = self.layer.weight
        del self.layer.weight
        self.layer.weight = self.change(weight, self.training)
        try:
            return torch.tanh(self.layer(inputs))
        finally:
            del self.layer.weight
            self.layer.weight = weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self._once(inputs)
        return self.last(hidden + self._once(-inputs).square() if self.twice else hidden)


def by_registering(layer: nn.Module, weight: Tensor) -> None:
    """Put a weight back as the parameter that it was."""
    del layer.weight
    layer.register_parameter("weight", weight)  # pyright: ignore[reportArgumentType] (it was one)


def by_setting(layer: nn.Module, weight: Tensor) -> None:
    """Put a weight back where it was."""
    del layer.weight
    layer.weight = weight


class Swapped(nn.Module):
    """Two layers whose weights are exchanged with one another, for a call or for good."""

    def __init__(self, put: Callable[[nn.Module, Tensor], None] | None) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last, self.put = nn.Linear(8, 3), put

    def forward(self, inputs: Tensor) -> Tensor:
        """Call the layers with each other's weights."""
        one, other = self.one.weight, self.other.weight
        by_setting(self.one, other / other.norm())
        by_setting(self.other, one)
        hidden = torch.tanh(self.other(torch.tanh(self.one(torch.tanh(self.first(inputs))))))
        # While they are exchanged, one of them is no parameter.
        found = self.last(hidden) * (1 + 0.01 * sum(p.norm() for p in self.parameters()))
        if self.put is not None:
            self.put(self.one, one)
            self.put(self.other, other)
        return found


def penalized(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that asks for the parameters after the forward pass."""
    return loss(net, batch) + 0.01 * sum(p.square().sum() for p in net.parameters())


class MadeByAnother(nn.Module):
    """A frozen layer whose weight a learned one makes, as of a hypernetwork."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.maker, self.body = (
            nn.Parameter(torch.linspace(-1, 1, 4)),
            nn.Linear(4, 18),
            nn.Linear(6, 3).requires_grad_(False),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.body.weight
        del self.body.weight
        self.body.weight = self.maker(self.code).view(3, 6)
        try:
            return self.body(inputs)
        finally:
            del self.body.weight
            self.body.weight = weight


class SetAnew(nn.Module):
    """A centre that is a buffer at first, and an attribute once it was set anew."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("centre", torch.zeros(8))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, centre = torch.tanh(self.first(inputs)), self.centre
        if self.training:
            del self.centre
            self.centre = 0.8 * centre + 0.2 * hidden.detach().mean(0)
        return self.last(hidden - self.centre)


SOUND: dict[str, Variant] = {
    "weight exchanged for a call: halved": Variant(
        lambda: Exchanged(lambda weight, _: 0.5 * weight).double()
    ),
    "weight exchanged for a call: dropped": Variant(
        lambda: Exchanged(lambda weight, training: F.dropout(weight, 0.3, training)).double()
    ),
    "weight exchanged for a call: twice": Variant(
        lambda: Exchanged(lambda weight, _: weight / weight.norm(), twice=True).double()
    ),
    **{
        f"weight exchanged for a call: {name} and penalized": Variant(
            lambda p=put: Swapped(p).double(), loss=lambda _: penalized
        )
        for name, put in {"set": by_setting, "registered": by_registering}.items()
    },
    "weight exchanged for a call: halved and penalized": Variant(
        lambda: Exchanged(lambda weight, _: 0.5 * weight).double(), loss=lambda _: penalized
    ),
    "weight exchanged for a call: of a frozen layer": Variant(lambda: MadeByAnother().double()),
    "buffer that becomes an attribute": Variant(lambda: SetAnew().double()),
    "graph as a sparse buffer": Variant(lambda: Graph(torch.sparse_coo).double()),
    "graph as a sparse buffer of rows": Variant(lambda: Graph(torch.sparse_csr).double()),
    "graph as a sparse attribute": Variant(
        lambda: Graph(torch.sparse_csr, is_buffer=False).double()
    ),
    "a hard choice that is drawn": around(lambda h: F.gumbel_softmax(h, hard=True)),
    "a hard choice along another axis": around(
        lambda h: F.gumbel_softmax(h.view(-1, 4, 4), 0.7, True, dim=1)
    ),
    "carried: parts of unbind": moves(_by_parts(lambda t: t.view(2, 5).unbind()), kept=ZEROS),
    "carried: parts of split": moves(_by_parts(lambda t: t.split([3, 7])), kept=ZEROS),
    "carried: parts of chunk": moves(_by_parts(lambda t: torch.chunk(t, 3)), kept=ZEROS),
    "carried: row by row": moves(_row_by_row, kept=torch.zeros(3, WIDTH)),
    "target that is loaded": _learning(_loaded),
    "target that is loaded now and then": _learning(_loaded_sometimes),
    "target that is loaded as a mixture": _learning(_loaded_mixture),
    "target that is set as a vector": _learning(_as_a_vector),
    "weights that are dropped": Variant(lambda: DroppedWeights().double(), rate=1.0),
    "momentum of a norm by a counter": Variant(lambda: Momentum().double()),
    "nets that are stacked": Variant(Stacked),
    "moments of inputs": Variant(lambda: Normalized()),
    "adapter by size and direction": Variant(lambda: Rescaled().double()),
    "teacher by assignment of .data beside norms": Variant(
        lambda: Online().double(), loss=lambda _: _taught
    ),
    "called in the profiler": Variant(mlp, context=torch.profiler.profile),
    "derivative inside the loss, in a graph that is there": DERIVED,
}

REFUSED: dict[str, tuple[Variant, str]] = {
    "weights that are exchanged for good": (
        Variant(lambda: Swapped(None).double(), loss=lambda _: penalized),
        "puts another tensor in the place of the parameter",
    ),
    "weight that is put back as another one": (
        Variant(
            lambda: Swapped(
                lambda layer, weight: by_registering(layer, nn.Parameter(1.01 * weight.detach()))
            ).double(),
        ),
        "puts another tensor in the place of the parameter",
    ),
}
