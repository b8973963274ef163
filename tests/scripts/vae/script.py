"""A variational autoencoder whose divergence counts more and more (annealing of beta)."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

ROWS, BATCH, STEPS, BITS, LATENT = 24, 6, 10, 8, 2


def rows(number, seed):
    """Rows of bits, and the noise that each is sampled with."""
    drawn = torch.Generator().manual_seed(seed)
    heaps = torch.tensor([[1.0, 0.0] * (BITS // 2), [0.0, 1.0] * (BITS // 2)])
    flips = (torch.rand(number, BITS, generator=drawn) < 0.15).to(heaps)
    bits = (heaps[torch.arange(number) % 2] - flips).abs()
    return bits, torch.randn(number, LATENT, generator=drawn)


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(BITS, 7), nn.Softplus(), nn.Linear(7, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 7), nn.Softplus(), nn.Linear(7, BITS))

    def forward(self, bits, noise):
        mean, log_variance = self.encoder(bits).chunk(2, dim=1)
        latent = mean + noise * (log_variance / 2).exp()
        return self.decoder(latent), mean, log_variance


def make_model():
    torch.manual_seed(17)
    return Autoencoder()


def losses_of(model, bits, noise, beta):
    """The negative evidence bound of each row, with the divergence times beta."""
    logits, mean, log_variance = model(bits, noise)
    told = binary_cross_entropy_with_logits(logits, bits, reduction="none").sum(dim=1)
    apart = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
    return told + beta * apart


def order():
    drawn = torch.Generator().manual_seed(13)
    return torch.stack([torch.randperm(ROWS, generator=drawn)[:BATCH] for _ in range(STEPS)])


def start():
    return torch.ones(ROWS)


def train(weights):
    """Train with a weight for each row; return the mean bound of others."""
    bits, noise = rows(ROWS, 0)
    model = make_model()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.02, alpha=0.9, eps=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    for step, batch in enumerate(order()):
        losses = losses_of(model, bits[batch], noise[batch], min(1.0, step / 5))
        optimizer.zero_grad()
        (losses * weights[batch]).mean().backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return float(losses_of(model, *rows(15, 1), 1.0).mean())
