"""More runs whose forward pass moves buffers, in the manner of published code; all are right."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import engine
from tests.strangers.carried import WIDTH, ZEROS, Moves, centre, moves
from tests.strangers.norms import Norms
from tests.strangers.plain import Variant, mlp
from tests.strangers.wrong_parts import AddedInPlace, Assigned, ByData, Copied, OwnRules

Batch = tuple[Tensor, Tensor]


def _replaced(net, hidden):
    """Depends on nothing that stood there before."""
    if net.training:
        net.kept = hidden.detach().mean(0)
        return hidden
    return hidden * (1 + net.kept)


def _drawn_anew(net, hidden):
    if net.training:
        nn.init.uniform_(net.kept, -0.1, 0.1)
    return hidden + net.kept


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return values**3

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return 3 * values**2 * gradient


def _function_without_a_graph(net, hidden):
    if not net.training:
        return hidden - net.kept
    with torch.no_grad():
        target = _Cube.apply(hidden)
        net.kept.lerp_(target.mean(0), 0.3)
    return hidden * (1 + target) - net.kept


def _hebbian(net, hidden):
    found = hidden @ (torch.eye(WIDTH).to(hidden) + 0.5 * net.kept)
    if net.training:
        net.kept = 0.8 * net.kept + 0.2 * (hidden.T @ torch.tanh(found)).detach() / len(hidden)
    return torch.tanh(found)


def _by_foreach(net, hidden):
    if net.training:
        torch._foreach_lerp_([net.kept], [hidden.detach().mean(0)], 0.3)
    return hidden - net.kept


class FromZero(nn.Module):
    """A teacher whose biases begin at zero, as those of normalizations do."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        self.online = nn.Sequential(*layers)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Only the student answers."""
        return self.online(inputs)


def _by_target(net: FromZero, batch: Batch) -> Tensor:
    found = net(batch[0])
    losses = F.cross_entropy(found, batch[1], reduction="none")
    if not net.training:
        return losses
    with torch.no_grad():
        target = net.target(batch[0] + 0.1)
        for own, other in zip(net.target.parameters(), net.online.parameters(), strict=True):
            own.mul_(0.9).add_(other, alpha=0.1)
    return losses + (found - target).square().sum(1)


class Averaged(nn.Module):
    """Torch's own average of weights as a part of the module, which alone is evaluated."""

    def __init__(self, **settings: Callable) -> None:
        super().__init__()
        self.net = mlp()
        self.average = AveragedModel(self.net, **settings).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Follow and answer in training; let the average answer in evaluation."""
        if not self.training:
            return self.average(inputs)
        self.average.update_parameters(self.net)
        return self.net(inputs)


class Backbone(nn.Module):
    """Features of frozen layers, which nobody wants a graph of."""

    def __init__(self, *, stays: bool) -> None:
        super().__init__()
        layers = (nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))
        self.body = nn.Sequential(*layers).requires_grad_(False)
        self.head, self.stays = nn.Linear(3, 3), stays

    def train(self, mode: bool = True) -> "Backbone":
        """Keep the body in evaluation mode, if it should stay."""
        super().train(mode)
        if self.stays:
            self.body.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Classify the features."""
        with torch.no_grad():
            features = self.body(inputs)
        return self.head(features)


def _in_both_modes(net: nn.Sequential, batch: Batch) -> Tensor:
    losses = F.cross_entropy(net(batch[0]), batch[1], reduction="none")
    if net.training:
        net[1].eval()  # normalizes by what the call before has just moved
        losses = losses + 0.5 * F.cross_entropy(net(batch[0] + 0.1), batch[1], reduction="none")
        net[1].train()
    return losses


def _by_jacobians(net: Moves, batch: Batch) -> Tensor:
    def logits(row: Tensor) -> Tensor:
        return net.last(torch.tanh(net.first(row)) - net.kept)

    slopes = torch.func.vmap(torch.func.jacrev(logits))(batch[0])
    losses = F.cross_entropy(net(batch[0]), batch[1], reduction="none")
    return losses + 0.01 * slopes.square().sum((1, 2))


def _by_tangents(net: Moves, batch: Batch) -> Tensor:
    def logits(rows: Tensor) -> Tensor:
        return net.last(torch.tanh(net.first(rows)) - net.kept)

    _, tangents = torch.func.jvp(logits, (batch[0],), (torch.ones_like(batch[0]),))
    losses = F.cross_entropy(net(batch[0]), batch[1], reduction="none")
    return losses + 0.05 * tangents.square().sum(1)


def _penalized(net: Moves, batch: Batch) -> Tensor:
    if not net.training:
        return F.cross_entropy(net(batch[0]), batch[1], reduction="none")
    inputs = batch[0].clone().requires_grad_()
    found = net(inputs)
    (slopes,) = torch.autograd.grad(found.logsumexp(1).sum(), inputs, create_graph=True)
    losses = F.cross_entropy(found, batch[1], reduction="none")
    return losses + 0.1 * slopes.square().sum(1)


def _prototypes(net: Moves, batch: Batch) -> Tensor:
    hidden = torch.tanh(net.first(batch[0]))
    if net.training:
        with torch.no_grad():
            for label in range(3):
                of_it = batch[1] == label
                if of_it.any():
                    net.kept[label] = 0.8 * net.kept[label] + 0.2 * hidden[of_it].mean(0)
    logits = net.last(hidden) - torch.cdist(hidden, net.kept).square()
    return F.cross_entropy(logits, batch[1], reduction="none")


def _robust(net: Moves, batch: Batch) -> Tensor:
    """Groups of large losses count more: weights that move by exponents of losses."""
    losses = F.cross_entropy(net(batch[0]), batch[1], reduction="none")
    if net.training:
        with torch.no_grad():
            count = torch.bincount(batch[1], minlength=3).clamp(min=1)
            means = torch.zeros(3).to(losses).index_add_(0, batch[1], losses) / count
            net.kept.mul_((0.3 * means).exp())
            net.kept.div_(net.kept.sum())
    return 3 * losses * net.kept[batch[1]]


def _with(loss: Callable, does: Callable = centre, kept: Tensor = ZEROS) -> Variant:
    return Variant(lambda: Moves(does, {"kept": kept}).double(), loss=lambda _: loss)


def _memory_set(net: Moves, hidden: Tensor) -> Tensor:
    if net.training:
        with torch.no_grad():
            net.kept.set_(0.8 * net.kept + 0.2 * hidden.mean(0))
    return hidden - net.kept


def _detached_set(net: Moves, hidden: Tensor) -> Tensor:
    if net.training:
        net.kept.set_((0.8 * net.kept + 0.2 * hidden.mean(0)).detach())
    return hidden - net.kept


def _queue_set(net: Moves, hidden: Tensor) -> Tensor:
    if net.training:
        net.kept.set_(torch.cat([net.kept[1:], hidden.detach().mean(0, keepdim=True)]))
    return hidden - net.kept.mean(0)


def _nothing(net: Moves, hidden: Tensor) -> Tensor:
    del net
    return hidden


SOUND: dict[str, Variant] = {
    "carried: another tensor at every step": moves(_replaced, kept=ZEROS),
    "carried: other memory by set_": moves(_memory_set, kept=ZEROS),
    "carried: other memory by set_, without no_grad": moves(_detached_set, kept=ZEROS),
    "carried: a queue by set_": moves(_queue_set, kept=torch.zeros(3, WIDTH)),
    "carried: drawn anew": moves(_drawn_anew, kept=ZEROS),
    "carried: a function without a graph": moves(_function_without_a_graph, kept=ZEROS),
    "carried: hebbian weights": moves(_hebbian, kept=torch.zeros(WIDTH, WIDTH)),
    "carried: by foreach": moves(_by_foreach, kept=ZEROS),
    "carried: a teacher whose biases begin at zero": Variant(
        lambda: FromZero().double(), loss=lambda _: _by_target
    ),
    "carried: an average that is evaluated": Variant(Averaged),
    "carried: a moving average that is evaluated": Variant(
        lambda: Averaged(multi_avg_fn=get_ema_multi_avg_fn(0.8))
    ),
    "frozen body whose statistics move": Variant(lambda: Backbone(stays=False).double()),
    "frozen body that stays": Variant(lambda: Backbone(stays=True).double()),
    "batch norm in both modes": Variant(
        lambda: mlp(nn.BatchNorm1d(10), nn.Tanh()), loss=lambda _: _in_both_modes
    ),
    "carried: jacobians that read it": _with(_by_jacobians),
    "carried: tangents that read it": _with(_by_tangents),
    "carried: a gradient penalty": Variant(
        lambda: Moves(centre, {"kept": ZEROS}).double(), loss=lambda _: _penalized
    ),
    "carried: prototypes of classes": _with(_prototypes, _nothing, torch.ones(3, WIDTH)),
    "carried: weights of groups": _with(_robust, _nothing, torch.ones(3) / 3),
    "carried: held by stop_gradient, too": moves(
        lambda net, hidden: centre(net, hidden) * (1 + engine.stop_gradient(hidden.square())),
        kept=ZEROS,
    ),
    **{
        f"batch norm by own rules: {own.__name__}": Variant(lambda o=own: Norms(o).double())
        for own in (OwnRules, Assigned, ByData, Copied, AddedInPlace)
    },
}
