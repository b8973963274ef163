"""Losses and operations of the trade that are right: each is a run beside trainings by torch."""

from collections.abc import Callable

import torch
from torch import Tensor, distributions, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.functional import cross_entropy, one_hot

from tests.strangers.plain import NUM_EXAMPLES, Variant, around, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())
_WEIGHTS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def _of(function: Callable[[Tensor, Tensor], Tensor]) -> Variant:
    """A loss of logits and labels."""
    return Variant(mlp, loss=lambda _: lambda net, batch: function(net(batch[0]), batch[1]))


def _with(function: Callable[[nn.Module, tuple], Tensor]) -> Variant:
    """A loss that calls the net itself; the output is the plain one."""
    return Variant(
        mlp, loss=lambda _: function, output=lambda _: lambda net: loss(net, _HELD).mean()
    )


def _each(logits: Tensor, labels: Tensor, **options: object) -> Tensor:
    return cross_entropy(logits, labels, reduction="none", **options)  # pyright: ignore[reportArgumentType]


def _right(labels: Tensor) -> Tensor:
    return one_hot(labels, 3).double()


def _contrasted(net: nn.Module, batch: tuple) -> Tensor:
    hidden = functional.normalize(net(batch[0]), dim=1)
    alike = (hidden @ hidden.T / 0.5).masked_fill(torch.eye(len(hidden)).bool(), -1e9)
    same = (batch[1][:, None] == batch[1]) & ~torch.eye(len(hidden)).bool()
    shares = alike - alike.logsumexp(1, keepdim=True)
    return -(shares * same).sum(1) / same.sum(1).clamp(min=1)


def _mixed(net: nn.Module, batch: tuple) -> Tensor:
    order, share = torch.randperm(len(batch[0])), torch.rand(())
    inputs = share * batch[0] + (1 - share) * batch[0][order]
    both = (_each(net(inputs), labels) for labels in (batch[1], batch[1][order]))
    return share * next(both) + (1 - share) * next(both)


def _transported(logits: Tensor, labels: Tensor) -> Tensor:
    costs = (logits[:, None] - _right(labels)).square().sum(2)
    rows, columns = torch.zeros(len(costs)).double(), torch.zeros(len(costs)).double()
    for _ in range(5):
        rows = -(columns - costs).logsumexp(1)
        columns = -(rows[:, None] - costs).logsumexp(0)
    return ((rows[:, None] + columns - costs).exp() * costs).sum(1)


def _penalized(net: nn.Module, batch: tuple) -> Tensor:
    inputs = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(inputs)[:, 0].sum(), inputs, create_graph=True)
    return loss(net, batch) + (slope.norm(dim=1) - 1).square()


def _adapted(net: nn.Module, batch: tuple) -> Tensor:
    params = dict(net.named_parameters())
    value = loss(net, (batch[0][:4], batch[1][:4])).mean()
    slopes = torch.autograd.grad(value, list(params.values()), create_graph=True)
    moved = {n: p - 0.1 * g for (n, p), g in zip(params.items(), slopes, strict=True)}
    return _each(functional_call(net, moved, (batch[0],)), batch[1])


def _doubled(net: nn.Module, batch: tuple) -> Tensor:
    one, other = net(batch[0]), net(batch[0] + 0.1 * torch.randn_like(batch[0]))
    apart = functional.kl_div(one.log_softmax(1), other.softmax(1), reduction="none").sum(1)
    return loss(net, batch) + apart


def _mixture(logits: Tensor, labels: Tensor) -> Tensor:
    normal = distributions.Normal(logits[:, :2], functional.softplus(logits[:, 1:]) + 0.1)
    parts = distributions.Categorical(logits=logits[:, :2])
    return -distributions.MixtureSameFamily(parts, normal).log_prob(labels.double())


LOSSES: dict[str, Variant] = {
    "class weights": _of(lambda o, y: _each(o, y, weight=_WEIGHTS)),
    "smoothed labels": _of(lambda o, y: _each(o, y, label_smoothing=0.1)),
    "ignored class": _of(lambda o, y: _each(o, y, ignore_index=2)),
    "focal": _of(lambda o, y: (1 - (-_each(o, y)).exp()) ** 2 * _each(o, y)),
    "squared hinge": _of(lambda o, y: (1 - o * (2 * _right(y) - 1)).clamp(min=0).square().mean(1)),
    "Huber": _of(lambda o, y: functional.huber_loss(o, _right(y), reduction="none").mean(1)),
    "quantiles": _of(
        lambda o, y: torch.maximum(0.9 * (_right(y) - o), 0.1 * (o - _right(y))).mean(1)
    ),
    "counts": _of(lambda o, y: functional.poisson_nll_loss(o[:, 0], y.double(), reduction="none")),
    "binary with weights": _of(
        lambda o, y: functional.binary_cross_entropy_with_logits(
            o, _right(y), pos_weight=_WEIGHTS, reduction="none"
        ).mean(1)
    ),
    "dice": _of(
        lambda o, y: 1 - 2 * (o.sigmoid() * _right(y)).sum(1) / (o.sigmoid() + _right(y)).sum(1)
    ),
    "sorted errors": _of(
        lambda o, y: ((_right(y) - o.softmax(1)).abs().sort(1).values * _WEIGHTS).sum(1)
    ),
    "hardest examples": _of(
        lambda o, y: _each(o, y) * (_each(o, y) >= _each(o, y).topk(4).values[-1])
    ),
    "losses up to their median": _of(lambda o, y: _each(o, y).clamp(max=_each(o, y).median())),
    "labels that it guesses": _of(lambda o, y: _each(o, o.argmax(1))),
    "rewards of samples": _of(
        lambda o, y: (
            lambda drawn: -distributions.Categorical(logits=o).log_prob(drawn) * (drawn == y)
        )(distributions.Categorical(logits=o).sample())
    ),
    "mixture of normals": _of(_mixture),
    "transport": _of(_transported),
    "triplets": _of(
        lambda o, y: functional.triplet_margin_loss(o, o.roll(1, 0), o.roll(2, 0), reduction="none")
    ),
    "contrast of classes": _with(_contrasted),
    "mixed examples": _with(_mixed),
    "gradient penalty": _with(_penalized),
    "adapted before": _with(_adapted),
    "two noisy views": _with(_doubled),
    "cumulative product": around(lambda h: (1 + 0.1 * h).cumprod(1)),
    "cumulative product with a zero": around(
        lambda h: torch.cat([h[:, :8], 0 * h[:, :1], h[:, 9:]], 1).cumprod(1)
    ),
    "cumulative logsumexp": around(lambda h: h.logcumsumexp(1)),
    "median": around(lambda h: h - h.median(1, keepdim=True).values),
    "largest four": around(lambda h: h * (h >= h.topk(4, 1).values[:, -1:])),
    "determinant": around(
        lambda h: (
            h * torch.linalg.slogdet(torch.eye(4).double() + 0.1 * h.view(-1, 4, 4))[1][:, None]
        )
    ),
    "pseudo-inverse": around(lambda h: torch.linalg.pinv(h.view(-1, 8, 2))),
    "QR": around(lambda h: torch.linalg.qr(h.view(-1, 4, 4) + 2 * torch.eye(4).double())[1]),
    "softmax with a detached maximum": around(
        lambda h: (h - h.max(1, keepdim=True).values.detach()).softmax(1)
    ),
    "mask of detached signs": around(lambda h: h * (h.detach() > 0)),
    "argmax of detached numbers": around(lambda h: h * one_hot(h.detach().argmax(1), 16)),
    "drawn temperature": around(functional.gumbel_softmax),
    "sampled grid": around(
        lambda h: functional.grid_sample(
            h.view(-1, 1, 4, 4),
            0.9
            * functional.affine_grid(
                torch.eye(2, 3).double().expand(len(h), 2, 3),
                [len(h), 1, 4, 4],
                align_corners=False,
            ),
            align_corners=False,
        )
    ),
    "messages along edges": around(
        lambda h: torch.zeros_like(h).index_add(1, torch.arange(16) // 4, torch.tanh(h)) + h
    ),
}
"""Names of sound runs."""
