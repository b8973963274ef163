"""Outputs whose derivative autograd gives without an error and has wrong, and first calls.

Both are added to ``tests.strangers.wrong.REFUSED``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp

_HELD = tuple(column[NUM_EXAMPLES:] for column in data())

SLOPE = r"derivative of the output"


def _entropy(net: nn.Module) -> Tensor:
    logs = F.log_softmax(net(_HELD[0]), -1)
    return -(logs.exp().detach() * logs).sum(1).mean()


def _margin(net: nn.Module) -> Tensor:
    logits = net(_HELD[0])
    return (logits.detach().softmax(-1) * logits).sum(1).mean()


def _scaled(net: nn.Module) -> Tensor:
    losses = loss(net, _HELD)
    return (losses / losses.detach().max()).mean()


def _rounded(net: nn.Module) -> Tensor:
    logits = net(_HELD[0])
    return F.cross_entropy(logits + (logits.round(decimals=1) - logits).detach(), _HELD[1])


def _without(net: nn.Module) -> Tensor:
    with torch.no_grad():
        factor = net(_HELD[0]).norm()
    return loss(net, _HELD).mean() * factor


OUTPUTS: dict[str, Callable[[nn.Module], Tensor]] = {
    "detached weights": _entropy,
    "detached probabilities": _margin,
    "scaled by a detached maximum": _scaled,
    "straight-through rounding": _rounded,
    "a block without gradients": _without,
    "penalty on .data": lambda net: loss(net, _HELD).mean() + net[0].weight.data.square().sum(),
    "penalty on the state_dict": lambda net: (
        loss(net, _HELD).mean() + net.state_dict()["0.weight"].square().sum()
    ),
    "item": lambda net: loss(net, _HELD).mean() * net[2].bias.square().sum().item(),
    "numpy": lambda net: loss(net, _HELD).mean() * float(net[2].weight.detach().numpy().std()),
}


class DetachedInEvaluation(nn.Module):
    """A layer that is whole in training, and cuts a part of the graph where it is evaluated."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Divide by the norm of each row."""
        size = inputs.norm(dim=1, keepdim=True)
        return inputs / (size if self.training else size.detach())


class FirstBatch(nn.Module):
    """A layer that finds its first values from the first batch (ActNorm)."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self.shift = nn.Parameter(torch.zeros(8))
        self.register_buffer("done", torch.tensor(False))

    def forward(self, inputs: Tensor) -> Tensor:
        """Shift by values that make the mean of the first batch zero."""
        if self.training and not self.done:
            mean = -inputs.detach().mean(0)
            if self.by == "copy":
                with torch.no_grad():
                    self.shift.copy_(mean)
            else:
                self.shift.data = mean
            self.done.fill_(True)
        return torch.tanh(inputs + self.shift)


def _keeping(net: nn.Sequential) -> Callable[[nn.Module], Tensor]:
    """An output with what the last batch of the training has left behind."""
    kept: dict[str, Tensor] = {}

    def keep(layer: nn.Module, _: object, made: Tensor) -> None:
        if layer.training:
            kept["features"] = made.detach()

    net[1].register_forward_hook(keep)
    return lambda given: loss(given, _HELD).mean() + kept["features"].square().mean()


def _with_history(read: Callable[[list[Tensor]], Tensor]) -> Variant:
    """A loss that keeps what it was, and an output that reads of it."""
    kept: list[Tensor] = []

    def lossy(_: nn.Module) -> Callable:
        kept.clear()

        def own(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            losses = loss(net, batch)
            kept.append(losses.detach().mean())
            return losses

        return own

    return Variant(
        mlp, loss=lossy, output=lambda _: lambda net: loss(net, _HELD).mean() * read(kept)
    )


class EvaluatedTwiceAsLarge(nn.Sequential):
    """A model whose ``eval()`` does more than torch's."""

    scale = 1.0

    def eval(self) -> "EvaluatedTwiceAsLarge":
        """Scale the logits from now on."""
        self.scale = 2.0
        return super().eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Scale them."""
        return super().forward(inputs) * self.scale


HISTORY = r"before the training and is .* after it"

FIRST = r"changes .* in place|sets the \.data|reads something besides|of training changes"

REFUSED = {
    **{
        f"detach in the output: {name}": (Variant(mlp, output=lambda _, o=output: o), SLOPE)
        for name, output in OUTPUTS.items()
    },
    "output that reads what the last batch left": (
        Variant(mlp, output=_keeping),
        r"features that a training step has left behind",
    ),
    "output that reads the best loss": (
        _with_history(lambda kept: torch.stack(kept).min()),
        r"left behind",  # by the loss of two examples, or by the training
    ),
    "eval() that leaves something": (
        Variant(lambda: EvaluatedTwiceAsLarge(*mlp())),
        r"reads something besides",
    ),
    "detach where the model is evaluated": (
        Variant(lambda: mlp(nn.GELU(), DetachedInEvaluation())),
        SLOPE,
    ),
    **{
        f"values from the first batch: {by}": (
            Variant(
                lambda b=by: nn.Sequential(nn.Linear(6, 8), FirstBatch(b), nn.Linear(8, 3)).double()
            ),
            FIRST,
        )
        for by in ("copy", "data")
    },
}
