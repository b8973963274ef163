"""The two models of the comparison in plain torch: every torch contender trains these modules.

Imported in the rivals' environments too, so this file knows torch and nothing else. Attention is
written out, because the fused kernels have no second derivative; nothing is random in a step.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, num_heads: int, length: int) -> None:
        """See ``Contender.__init__``."""
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the class says."""
        batch, length, width = x.shape
        heads = self.attend(self.norm_1(x)).view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + self.mask
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.project(mixed)
        return x + self.contract(F.gelu(self.expand(self.norm_2(x))))


class GPT(nn.Module):
    """Maps tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(
        self, vocabulary: int, length: int, width: int, depth: int, num_heads: int
    ) -> None:
        """See ``Contender.__init__``."""
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, length) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("project.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what the class says."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Convolution(nn.Sequential):
    """A 3 x 3 convolution, group norm, GELU."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        """See ``Contender.__init__``."""
        convolution = nn.Conv2d(num_inputs, num_outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        super().__init__(convolution, nn.GroupNorm(4, num_outputs), nn.GELU())


class ResNet9(nn.Module):
    """Maps images (batch, channels, height, width) to logits (batch, 10)."""

    def __init__(self, channels: int, width: int) -> None:
        """See ``Contender.__init__``."""
        super().__init__()
        self.stem = Convolution(channels, width)
        self.down_1 = Convolution(width, 2 * width)
        self.pair_1 = nn.Sequential(*(Convolution(2 * width, 2 * width) for _ in range(2)))
        self.down_2 = Convolution(2 * width, 4 * width)
        self.down_3 = Convolution(4 * width, 8 * width)
        self.pair_2 = nn.Sequential(*(Convolution(8 * width, 8 * width) for _ in range(2)))
        self.head = nn.Linear(8 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the class says."""
        x = F.avg_pool2d(self.down_1(self.stem(images)), 2)
        x = x + self.pair_1(x)
        x = F.avg_pool2d(self.down_2(x), 2)
        x = F.avg_pool2d(self.down_3(x), 2)
        x = x + self.pair_2(x)
        return self.head(x.mean(dim=(-2, -1)))


def build(model: dict[str, Any]) -> nn.Module:
    """Build a model from its description; the caller loads the initial values."""
    sizes = {name: value for name, value in model.items() if name != "kind"}
    return GPT(**sizes) if model["kind"] == "gpt" else ResNet9(**sizes)


def per_example_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of each example, averaged over its tokens if it has any."""
    inputs, labels = batch
    logits = model(inputs)
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return losses.view(len(labels), -1).mean(dim=1)
