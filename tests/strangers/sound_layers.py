"""Layers and operations of torch in strangers' runs, each of them right."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.strangers.plain import Variant, around, copies, loss, mlp


def image(hidden: Tensor) -> Tensor:
    return hidden.reshape(-1, 1, 4, 4)


def tokens(hidden: Tensor) -> Tensor:
    return hidden.reshape(-1, 4, 4)


def square(hidden: Tensor) -> Tensor:
    return tokens(hidden) + 3 * torch.eye(4, dtype=hidden.dtype)


def _scattered(reduce: str, shift: float = 0.0) -> Callable[[Tensor], Tensor]:
    def operation(hidden: Tensor) -> Tensor:
        places = (torch.arange(16) % 4).expand(len(hidden), 16)
        start = torch.zeros(len(hidden), 4, dtype=hidden.dtype)
        return start.scatter_reduce(1, places, hidden + shift, reduce, include_self=False)

    return operation


class Experts(nn.Module):
    """A mixture of experts that calls those with something to do."""

    def __init__(self, number: int = 4) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(16, number), copies(nn.Linear(16, 16), number)

    def forward(self, hidden: Tensor) -> Tensor:
        share, chosen = self.gate(hidden).softmax(1).topk(1, 1)
        result = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            rows = (chosen[:, 0] == number).nonzero()[:, 0]
            if len(rows):
                result = result.index_add(0, rows, share[rows] * torch.tanh(expert(hidden[rows])))
        return result


PADDED = torch.tensor([[False, False, True, True]])

MASK = torch.rand(16, 16, generator=torch.Generator().manual_seed(3)).gt(0.7).double()


class AsReal(nn.Module):
    """A complex weight kept as a real one, as code does that has to be saved or summed."""

    def __init__(self) -> None:
        super().__init__()
        w = torch.complex(*torch.randn(2, 6, 3, dtype=torch.float64).mul(0.3))
        self.w = nn.Parameter(torch.view_as_real(w).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return sizes."""
        return (inputs.to(torch.complex128) @ torch.view_as_complex(self.w)).abs()


class AlwaysTraining(nn.Sequential):
    """Monte-Carlo dropout: a model that is evaluated as it is trained."""

    def eval(self) -> "AlwaysTraining":
        """Stay in training mode."""
        return self


class Compiled(nn.Module):
    """Layers the last of which are compiled, in one of the ways that torch has."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(6, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 3))
        if how == "wrapped":
            self.rest: Any = torch.compile(self.rest, backend="aot_eager")
        else:
            (self if how == "whole" else self.rest).compile(backend="aot_eager")

    def forward(self, inputs: Tensor) -> Tensor:
        """Call the layers."""
        return self.rest(self.first(inputs))


LAYERS: dict[str, Variant] = {
    **{
        f"compiled: {how}": Variant(lambda h=how: Compiled(h).double())
        for how in ("wrapped", "in place", "whole")
    },
    "eval() that is training": Variant(
        lambda: AlwaysTraining(
            nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)
        ).double()
    ),
    "DataParallel": Variant(
        lambda: nn.DataParallel(mlp()),
        loss=lambda model: (
            lambda net, batch: loss(net, batch) + 0.01 * net.module[0].weight.square().sum()
        ),
    ),
    "DataParallel inside": Variant(
        lambda: nn.Sequential(nn.Linear(6, 6).double(), nn.DataParallel(mlp()))
    ),
    "complex weight as a real one": Variant(AsReal, momentum=0.9),
    "LSTM": around(lambda m, h: m(tokens(h))[0], lambda: nn.LSTM(4, 5, batch_first=True)),
    "GRU": around(lambda m, h: m(tokens(h))[0], lambda: nn.GRU(4, 5, batch_first=True)),
    "bidirectional RNN": around(
        lambda m, h: m(tokens(h))[0],
        lambda: nn.RNN(4, 5, 2, batch_first=True, bidirectional=True),
    ),
    "LSTM cell": around(lambda m, h: m(h)[0], lambda: nn.LSTMCell(16, 5)),
    "attention with weights": around(
        lambda m, h: m(tokens(h), tokens(h), tokens(h))[0],
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    "attention without weights": around(
        lambda m, h: m(tokens(h), tokens(h), tokens(h), need_weights=False)[0],
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    "encoder layer": around(
        lambda m, h: m(tokens(h)),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.1, F.gelu, batch_first=True),
    ),
    "encoder with padding": around(
        lambda m, h: m(tokens(h), src_key_padding_mask=PADDED.expand(len(h), 4)),
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), 2
        ),
    ),
    "scaled dot product": around(
        lambda h: F.scaled_dot_product_attention(tokens(h), tokens(h), tokens(h))
    ),
    "causal attention": around(
        lambda h: F.scaled_dot_product_attention(
            tokens(h)[:, None], tokens(h)[:, None], tokens(h)[:, None], is_causal=True
        )
    ),
    "bilinear interpolation": around(
        lambda h: F.interpolate(image(h), scale_factor=1.5, mode="bilinear")
    ),
    "pixel shuffle": around(lambda h: F.pixel_shuffle(h.reshape(-1, 4, 2, 2), 2)),
    "unfold and fold": around(lambda h: F.fold(F.unfold(image(h), 2), (4, 4), 2)),
    "convolution 3d": around(
        lambda m, h: m(h.reshape(-1, 1, 4, 2, 2)), lambda: nn.Conv3d(1, 2, (2, 2, 2))
    ),
    "transposed convolution": around(
        lambda m, h: m(image(h)), lambda: nn.ConvTranspose2d(1, 2, 3, stride=2)
    ),
    "depthwise dilated convolution": around(
        lambda m, h: m(image(h).expand(-1, 4, 4, 4)),
        lambda: nn.Conv2d(4, 4, 2, groups=4, dilation=2),
    ),
    "circular convolution": around(
        lambda m, h: m(tokens(h)), lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular")
    ),
    "group norm": around(lambda m, h: m(h), lambda: nn.GroupNorm(4, 16)),
    "instance norm": around(lambda m, h: m(image(h)), lambda: nn.InstanceNorm2d(1, affine=True)),
    "RMS norm": around(lambda m, h: m(h), lambda: nn.RMSNorm(16)),
    "layer norm": around(lambda m, h: m(h), lambda: nn.LayerNorm(16)),
    "local response norm": around(lambda h: F.local_response_norm(h.reshape(-1, 4, 2, 2), 2)),
    "normalize": around(F.normalize),
    "average pooling": around(lambda h: F.avg_pool2d(image(h), 3, ceil_mode=True)),
    "adaptive pooling": around(lambda h: F.adaptive_avg_pool2d(image(h), 3)),
    "max pooling": around(lambda h: F.max_pool2d(image(h), 2)),
    "softplus": around(lambda h: F.softplus(h, beta=3)),
    "mish": around(F.mish),
    "SiLU": around(F.silu),
    "ELU": around(F.elu),
    "GLU": around(F.glu),
    "hardswish": around(F.hardswish),
    "PReLU": around(lambda m, h: m(h), nn.PReLU),
    "logsigmoid": around(F.logsigmoid),
    "bilinear": around(lambda m, h: m(h, h), lambda: nn.Bilinear(16, 16, 4)),
    "einsum": around(lambda h: torch.einsum("bij,bkj->bik", tokens(h), tokens(h))),
    "cosine similarity": around(lambda h: F.cosine_similarity(tokens(h), tokens(h).flip(1), dim=2)),
    "complex product": around(
        lambda h: torch.view_as_real(torch.view_as_complex(h.reshape(-1, 8, 2)) ** 2)
    ),
    "Fourier transform": around(lambda h: 0.1 * torch.fft.rfft(h).abs()),
    "cummax": around(lambda h: h.cummax(1).values),
    "sort": around(lambda h: h.sort(1).values),
    "logsumexp": around(lambda h: tokens(h).logsumexp(2)),
    "matrix exponential": around(lambda h: torch.matrix_exp(0.3 * tokens(h))),
    "solve": around(lambda h: torch.linalg.solve(square(h), torch.ones(4, 2, dtype=h.dtype))),
    "cholesky": around(
        lambda h: torch.linalg.cholesky(tokens(h) @ tokens(h).mT + torch.eye(4, dtype=h.dtype))
    ),
    "eigenvalues": around(lambda h: torch.linalg.eigvalsh(tokens(h) + tokens(h).mT)),
    "singular values": around(lambda h: torch.linalg.svdvals(tokens(h))),
    "sparse product": around(lambda h: torch.sparse.mm(MASK.to_sparse(), h.T).T),
    "scattered mean": around(_scattered("mean")),
    "scattered maximum": around(_scattered("amax")),
    "relu in place": around(lambda h: (h + 0).relu_()),
    "product in place": around(lambda h: (h + 0).mul_(2)),
    "vmap inside": around(lambda h: torch.func.vmap(lambda row: torch.outer(row[:3], row[3:6]))(h)),
    "jvp inside": around(lambda h: torch.func.jvp(torch.sin, (h,), (h,))[1]),
    "scripted module": around(
        lambda m, h: m(h), lambda: torch.jit.script(nn.Sequential(nn.Linear(16, 8), nn.Tanh()))
    ),
    "randomized ReLU": around(lambda m, h: m(h), nn.RReLU),
    "alpha dropout": around(lambda m, h: m(h), lambda: nn.AlphaDropout(0.2)),
    "dropout in place": around(lambda m, h: m(h + 0), lambda: nn.Dropout(0.2, inplace=True)),
    "dropout of channels": around(
        lambda m, h: m(h.reshape(-1, 4, 2, 2)), lambda: nn.Dropout2d(0.3)
    ),
    "experts, some idle": around(lambda m, h: m(h), Experts),
    "experts, most idle": around(lambda m, h: m(h), lambda: Experts(16)),
}
"""Operations of torch."""
