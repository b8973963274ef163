"""Models with complex parameters, as operators in Fourier space and linear recurrences have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.strangers.plain import Variant


class Spectral(nn.Module):
    """Multiplies the lowest frequencies by complex weights."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cdouble) / width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a function on the same grid."""
        found = torch.fft.rfft(inputs)
        modes = self.weights.shape[-1]
        product = torch.einsum("bim,iom->bom", found[..., :modes], self.weights)
        padded = torch.zeros(*found.shape, dtype=self.weights.dtype)
        padded[..., :modes] = product
        return torch.fft.irfft(padded, n=inputs.shape[-1])


class Operator(nn.Module):
    """A neural operator on six points; a parameter of three numbers makes later places odd."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.bias = nn.Linear(1, 3), nn.Parameter(torch.zeros(3, 1))
        self.first, self.second = Spectral(3, 3), Spectral(3, 2)
        self.beside, self.head = nn.Conv1d(3, 3, 1), nn.Linear(18, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        hidden = self.lift(inputs[..., None]).mT + self.bias
        hidden = F.gelu(self.first(hidden) + self.beside(hidden))
        return self.head((self.second(hidden) + hidden).flatten(1))


class Recurrent(nn.Module):
    """A diagonal recurrence with complex eigenvalues; conjugates and a frozen complex factor."""

    def __init__(self) -> None:
        super().__init__()
        radius, angle = torch.rand(2, 5, dtype=torch.float64)
        self.bias = nn.Parameter(torch.zeros(1))
        self.decay = nn.Parameter(torch.polar(0.4 + radius / 2, 3 * angle))
        self.into = nn.Parameter(torch.randn(5, 2, dtype=torch.cdouble))
        self.out = nn.Parameter(torch.randn(3, 5, dtype=torch.cdouble) / 2)
        self.register_buffer("factor", torch.polar(torch.ones(5).double(), angle))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        steps = inputs.view(-1, 3, 2).to(self.into.dtype)
        hidden = torch.zeros(len(inputs), 5, dtype=self.into.dtype)
        for step in range(3):
            hidden = self.decay * hidden + steps[:, step] @ self.into.mT
        turned = hidden.conj() * self.factor
        return (hidden @ self.out.mT).real + (turned @ self.out.mH).imag + self.bias


class Sizes(nn.Module):
    """The sizes of a complex product: its gradient is no holomorphic function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, dtype=torch.cdouble))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return three logits."""
        return (inputs.to(self.weight.dtype) @ self.weight).abs()


def _hooked() -> nn.Module:
    net = Sizes()
    net.weight.register_hook(lambda gradient: gradient * (1 + 0.3j) / (1 + gradient.abs()))
    return net


SOUND: dict[str, Variant] = {
    "complex: a neural operator": Variant(lambda: Operator().double()),
    "complex: with momentum": Variant(lambda: Operator().double(), momentum=0.9, rate=0.1),
    "complex: in shards": Variant(lambda: Operator().double(), shards=2),
    "complex: a recurrence": Variant(lambda: Recurrent().double(), rate=0.1),
    "complex: sizes": Variant(Sizes, momentum=0.5),
    "complex: a hook": Variant(_hooked),
}
