"""Models with a ``train()``, an ``eval()`` or a ``forward`` of somebody's own."""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.strangers.plain import Variant, mlp


class FrozenStatistics(nn.Sequential):
    """Normalizations stay in evaluation mode, whatever mode is asked for."""

    def train(self, mode: bool = True) -> "FrozenStatistics":
        """Train all but them."""
        super().train(mode)
        for layer in self:
            if isinstance(layer, nn.BatchNorm1d):
                layer.eval().requires_grad_(False)
        return self


class FreezesLater(nn.Sequential):
    """``train()`` freezes the first layer from its fourth call on, as of stages of fine-tuning."""

    calls = 0

    def train(self, mode: bool = True) -> "FreezesLater":
        """Count, and freeze."""
        super().train(mode)
        self.calls += 1
        if self.calls > 3:
            self[0].requires_grad_(False)
        return self


class Flagged(nn.Module):
    """A model that keeps the mode under a name of its own, and averages views in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.averages = mlp(nn.GELU(), nn.Dropout(0.2)), False

    def train(self, mode: bool = True) -> "Flagged":
        """Note the mode."""
        self.averages = not mode
        return super().train(mode)

    def forward(self, inputs: Tensor) -> Tensor:
        """Add another view, where nobody trains."""
        return self.net(inputs) + (0.1 * self.net(-inputs) if self.averages else 0)


class Scaled(nn.Sequential):
    """``eval()`` and ``train()`` set another scale."""

    scale = 1.0

    def eval(self) -> "Scaled":
        """Scale the logits."""
        self.scale = 2.0
        return super().eval()

    def train(self, mode: bool = True) -> "Scaled":
        """Scale them no more."""
        self.scale = 1.0 if mode else self.scale
        return super().train(mode)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        return self.scale * super().forward(inputs)


class CapturedSelf(nn.Module):
    """A function kept as an attribute, which holds the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.ones(8))
        self.act = lambda hidden: torch.tanh(hidden) * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Scale by what the attribute holds."""
        return self.last(self.act(self.first(inputs)))


class WithoutArguments(nn.Sequential):
    """``parameters()`` takes no argument."""

    def parameters(self):
        """Return all."""
        return super().parameters()


class Clamping(nn.Module):
    """Weights are kept within bounds whenever training begins, which none has left yet."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def train(self, mode: bool = True) -> "Clamping":
        """Clamp them."""
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.clamp_(-0.5, 0.5)
        return super().train(mode)

    def forward(self, inputs: Tensor) -> Tensor:
        """Call the net."""
        return self.net(inputs)


class Loading(nn.Module):
    """Training begins with the weights with which it began the last time."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kept = mlp(), dict[str, Tensor]()

    def train(self, mode: bool = True) -> "Loading":
        """Load what was kept, and keep it."""
        if mode:
            self.net.load_state_dict(self.kept or self.net.state_dict())
            self.kept = {name: value.clone() for name, value in self.net.state_dict().items()}
        return super().train(mode)

    def forward(self, inputs: Tensor) -> Tensor:
        """Call the net."""
        return self.net(inputs)


class Merging(nn.Module):
    """``eval()`` of the whole adds an adapter to the weight that it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.more = mlp(), nn.Parameter(torch.full((3, 10), 0.1).double())

    def eval(self) -> "Merging":
        """Merge."""
        with torch.no_grad():
            self.net[2].weight.add_(self.more)
        return super().eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Add what is not merged."""
        hidden = self.net[1](self.net[0](inputs))
        return self.net[2](hidden) + (hidden @ self.more.T if self.training else 0)


def _changed(change: Callable[[Any], object], *middle: nn.Module) -> Variant:
    def make() -> nn.Module:
        net = mlp(*map(copy.deepcopy, middle))  # each run has its own
        change(net)
        return net

    return Variant(make)


def _wrap(net: nn.Module) -> None:
    plain = net.forward
    net.forward = lambda inputs: 1.5 * plain(inputs)


def _wrap_method(net: nn.Sequential) -> None:
    """As libraries do, the model and a layer: a method whose closure has the old one."""

    def wrap(module: Any) -> None:
        plain = module.forward

        def scaled(_self: nn.Module, inputs: Tensor) -> Tensor:
            return 1.5 * plain(inputs)

        module.forward = MethodType(scaled, module)

    wrap(net)
    wrap(net[0])


def _wrap_layer(net: nn.Sequential) -> None:
    layer: Any = net[0]
    layer.forward = lambda inputs: F.linear(2 * inputs, layer.weight, layer.bias)


def _bind_default(net: Any) -> None:
    net.forward = lambda inputs, own=net: own[2](own[1](own[0](2 * inputs)))


def _train_by_function(net: Any) -> None:
    def train(mode: bool = True) -> nn.Module:
        return nn.Module.train(net, mode)

    net.train = train


def _never_train(net: Any) -> None:
    net[1].training, net[1].train = False, lambda mode=True: mode


SOUND = {
    "train() that freezes statistics": Variant(
        lambda: FrozenStatistics(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3)
        ).double()
    ),
    "train() that sets a flag": Variant(Flagged),
    "train() that sets a flag, handed in for evaluation": Variant(lambda: Flagged().eval()),
    "eval() that sets a scale, and train() that takes it back": Variant(lambda: Scaled(*mlp())),
    "train() of an instance": _changed(_train_by_function, nn.GELU(), nn.Dropout(0.3)),
    "train() that was taken away": _changed(_never_train, nn.Dropout(0.3)),
    "attribute that captures the module": Variant(lambda: CapturedSelf().double()),
    "parameters() without arguments": Variant(lambda: WithoutArguments(*mlp())),
    "forward of an instance that calls the old one": _changed(_wrap),
    "forward that is a method around the old one": _changed(_wrap_method),
    "forward of a layer that closes over it": _changed(_wrap_layer),
    "forward of an instance that has it as a default": _changed(_bind_default),
}

_WRITES = r"rewrites '.*' in its train\(\) or eval\(\)"

REFUSED = {
    "train() that freezes later": (
        Variant(lambda: FreezesLater(*mlp())),
        r"freezes or unfreezes|handed in|does not depend|by itself",
    ),
    "train() that clamps": (Variant(Clamping, rate=3.0), _WRITES),
    "train() that loads": (Variant(Loading), _WRITES),
    "eval() that merges": (Variant(Merging), _WRITES),
}
