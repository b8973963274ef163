"""A net that solves u'' = -pi^2 sin(pi x), u(-1) = u(1) = 0, by the residual of its derivatives."""

import math

import torch
from torch import nn

COLLOCATION, BATCH, STEPS, KEYS = 24, 8, 15, 4


def points():
    """Points in the domain, then the two ends many times over."""
    inside = torch.linspace(-0.95, 0.95, COLLOCATION - 6)
    ends = torch.tensor([-1.0, 1.0]).repeat(3)
    return torch.cat([inside, ends])[:, None], torch.arange(COLLOCATION) >= len(inside)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 1)
        )

    def forward(self, x):
        return self.net(x)


def make_model():
    torch.manual_seed(2)
    return Field()


def residuals(model, x, at_end):
    """Squared residual of the equation, or of the boundary value, for each point."""
    x = x.detach().requires_grad_(True)
    u = model(x)
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
    equation = (ddu + math.pi**2 * torch.sin(math.pi * x)).square()[:, 0]
    return torch.where(at_end, 20.0 * u.square()[:, 0], equation / 10)


def order():
    drawn = torch.Generator().manual_seed(8)
    return [torch.randperm(COLLOCATION, generator=drawn)[:BATCH] for _ in range(STEPS)]


def start():
    """Logarithms of the learning rate at evenly spaced steps."""
    return torch.full((KEYS,), 0.01).log()


def rate_at(keys, step):
    """Linear between the rates at the key points."""
    place = step * (KEYS - 1) / (STEPS - 1)
    left = min(int(place), KEYS - 2)
    return float(keys[left].exp() + (place - left) * (keys[left + 1].exp() - keys[left].exp()))


def error(model):
    """Mean squared error of the solution."""
    x = torch.arange(-10, 11).to(next(model.parameters()))[:, None] / 10
    return (model(x) - torch.sin(math.pi * x)).square().mean()


def train(keys):
    """Train at those rates; return the error of the solution."""
    x, at_end = points()
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-3)
    for step, batch in enumerate(order()):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(keys, step)
        optimizer.zero_grad()
        residuals(model, x[batch], at_end[batch]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return float(error(model))
