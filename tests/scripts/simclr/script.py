"""SimCLR: two views of each point attract each other among all views of the batch (NT-Xent)."""

import torch
from torch import nn
from torch.nn.functional import normalize

POINTS, BATCH, STEPS, TEMPERATURE = 24, 8, 10, 0.5


def views(number, seed):
    """Two views of each of some points, which lie in three heaps."""
    drawn = torch.Generator().manual_seed(seed)
    heaps = 2 * torch.eye(6)[torch.arange(number) % 3]
    points = heaps + torch.randn(number, 6, generator=drawn)
    return tuple(points + 0.3 * torch.randn(number, 6, generator=drawn) for _ in range(2))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.GELU(), nn.Linear(10, 8))
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x):
        return normalize(self.head(self.body(x)), dim=1)


def make_model():
    torch.manual_seed(14)
    return Encoder()


def ntxent(one, other, weights):
    """The loss of each pair, over its views; a pair of weight w stands w times among all."""
    all_views = torch.cat([one, other])
    counts = torch.cat([weights, weights])
    similar = (all_views @ all_views.T / TEMPERATURE).exp()
    others = (similar * counts).sum(dim=1) - similar.diagonal()  # a view is not beside itself
    own = (one * other).sum(dim=1) / TEMPERATURE
    first, second = others.log().chunk(2)
    return (first + second) / 2 - own


def order():
    drawn = torch.Generator().manual_seed(12)
    return torch.stack([torch.randperm(POINTS, generator=drawn)[:BATCH] for _ in range(STEPS)])


def start():
    return torch.ones(POINTS)


def train(weights):
    """Train with a weight for each pair; return the mean loss of others, all in one batch."""
    one, other = views(POINTS, 0)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    for batch in order():
        losses = ntxent(model(one[batch]), model(other[batch]), weights[batch])
        optimizer.zero_grad()
        (losses * weights[batch]).mean().backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        held_out = views(12, 1)
        return float(ntxent(*map(model, held_out), torch.ones(12)).mean())
