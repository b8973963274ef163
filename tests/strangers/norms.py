"""Normalization layers as strangers write them, with statistics that are right."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norms(nn.Module):
    """Two normalizations, of which a stranger may freeze or share one."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm1d, shared: bool = False):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm = norm(8)
        self.other = self.norm if shared else norm(8)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.first(inputs)))
        return self.last(torch.tanh(self.other(self.second(hidden))))


class Frozen(Norms):
    """Fine-tuning with frozen statistics: ``train`` leaves the layers in evaluation mode."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.norm.eval()
        return self


class WithActivation(nn.BatchNorm1d):
    """Normalization and activation in one, with torch's own forward inside."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(super().forward(input))


class WrittenOut(nn.BatchNorm1d):
    """The same with a forward pass of its own, as in collections of image models."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        normalized = F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return F.silu(normalized)


class Ghost(nn.BatchNorm1d):
    """Normalizes the halves of a batch by themselves."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return torch.cat([super(Ghost, self).forward(half) for half in input.chunk(2)])


class GhostStatistics(nn.BatchNorm1d):
    """The same with statistics for each half, which are averaged when evaluation begins."""

    def __init__(self, channels: int, splits: int = 2) -> None:
        super().__init__(channels)
        self.splits = splits
        self.register_buffer("running_mean", torch.zeros(channels * splits))
        self.register_buffer("running_var", torch.ones(channels * splits))

    def train(self, mode: bool = True) -> "GhostStatistics":
        if self.training and not mode:
            for name in ("running_mean", "running_var"):
                parts = getattr(self, name).view(self.splits, self.num_features)
                setattr(self, name, parts.mean(0).repeat(self.splits))
        return super().train(mode)

    def forward(self, input: Tensor) -> Tensor:
        size, width = input.shape
        if not self.training:
            mean, variance = self.running_mean[:width], self.running_var[:width]
            return F.batch_norm(input, mean, variance, self.weight, self.bias, eps=self.eps)
        return F.batch_norm(
            input.view(-1, width * self.splits),
            self.running_mean,
            self.running_var,
            self.weight.repeat(self.splits),
            self.bias.repeat(self.splits),
            True,
            self.momentum,
            self.eps,
        ).view(size, width)


class CalledByParent(nn.Module):
    """The parent normalizes with the statistics of a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        norm = self.norm
        hidden = F.batch_norm(
            self.first(inputs),
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            self.training,
            0.2,
        )
        return self.last(torch.tanh(hidden))
