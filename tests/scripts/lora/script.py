"""Low-rank adapters by hand on a frozen net: two tasks in dict batches, with missing answers."""

import math

import torch
from torch import nn

ROWS, BATCH, STEPS, RANK = 24, 6, 12, 2


def rows(number, seed):
    """Rows with a rare class and a value of uncertain size; every third value is missing."""
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 5, generator=drawn)
    spread = 0.2 + x[:, 1].abs()
    value = x[:, 0] + spread * torch.randn(number, generator=drawn)
    known = (torch.arange(number) % 3 != 0).to(x)
    return {"x": x, "rare": (x[:, 2] > 0.8).to(x), "value": value * known, "known": known}


class Adapted(nn.Module):
    """A frozen linear layer plus a low-rank one."""

    def __init__(self, ins, outs):
        super().__init__()
        self.base = nn.Linear(ins, outs)
        self.base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(RANK, ins) / math.sqrt(ins))
        self.up = nn.Parameter(0.1 * torch.randn(outs, RANK))

    def forward(self, x):
        return self.base(x) + 2.0 * (x @ self.down.T) @ self.up.T


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Adapted(5, 8), nn.GELU(), Adapted(8, 8), nn.GELU())
        self.rare, self.value = nn.Linear(8, 1), nn.Linear(8, 2)

    def forward(self, x):
        found = self.body(x)
        return self.rare(found)[:, 0], self.value(found)


def make_model():
    torch.manual_seed(31)
    return TwoTasks()


def losses_of(model, batch):
    """Focal loss of the class, and the likelihood of the value under its own uncertainty."""
    logits, found = model(batch["x"])
    sign = 2 * batch["rare"] - 1
    right = (sign * logits).sigmoid()
    focal = -((1 - right) ** 2) * torch.nn.functional.logsigmoid(sign * logits)
    mean, log_variance = found.unbind(dim=1)
    surprise = (batch["value"] - mean).square() * (-log_variance).exp() + log_variance
    return focal + 0.3 * batch["known"] * surprise


def rate(step):
    """Warm-up, then a cosine."""
    return (step + 1) / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / (STEPS - 3)))


def order():
    drawn = torch.Generator().manual_seed(15)
    return torch.stack([torch.randperm(ROWS, generator=drawn)[:BATCH] for _ in range(STEPS)])


def start():
    return torch.ones(ROWS)


def train(weights):
    """Train adapters and heads with a weight for each row; return the mean loss on others."""
    data = rows(ROWS, 0)
    model = make_model()
    adapters = [p for n, p in model.named_parameters() if n.endswith((".down", ".up"))]
    heads = [*model.rare.parameters(), *model.value.parameters()]
    groups = [
        {"params": adapters, "lr": 0.02, "weight_decay": 0.0},
        {"params": heads, "lr": 0.05, "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, eps=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for batch in order():
        losses = losses_of(model, {name: column[batch] for name, column in data.items()})
        optimizer.zero_grad()
        (losses * weights[batch]).mean().backward()
        nn.utils.clip_grad_norm_([*adapters, *heads], 0.5)
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return float(losses_of(model, rows(15, 1)).mean())
