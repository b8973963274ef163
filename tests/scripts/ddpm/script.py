"""Denoising diffusion of points in the plane; what is judged is the average of the weights."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

POINTS, BATCH, STEPS, LEVELS = 24, 8, 10, 20


class Moons(Dataset):
    """Points of two moons, each with the time and the noise that it is trained with."""

    def __init__(self, number, seed):
        drawn = torch.Generator().manual_seed(seed)
        angle = torch.rand(number, generator=drawn) * math.pi
        upper = torch.arange(number) % 2
        x = torch.cos(angle) * (1 - 2 * upper) + upper
        y = torch.sin(angle) * (1 - 2 * upper) + 0.5 * upper
        self.points = torch.stack([x, y], dim=1)
        self.times = torch.randint(0, LEVELS, (number,), generator=drawn)
        self.noises = torch.randn(number, 2, generator=drawn)

    def __len__(self):
        return len(self.points)

    def __getitem__(self, place):
        return place, self.points[place], self.times[place], self.noises[place]


def kept_share(times, dtype):
    betas = torch.linspace(1e-3, 0.2, LEVELS, dtype=dtype)
    return torch.cumprod(1 - betas, dim=0)[times][:, None]


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 2))
        self.register_buffer("frequencies", 2.0 ** torch.arange(2))

    def forward(self, noised, times):
        phase = times[:, None].to(noised) / LEVELS * self.frequencies * math.pi
        known = torch.cat([phase.sin(), phase.cos()], dim=1)
        return self.net(torch.cat([noised, known], dim=1))


def make_model():
    torch.manual_seed(11)
    return Denoiser()


def losses_of(model, points, times, noises):
    share = kept_share(times, points.dtype)
    noised = share.sqrt() * points + (1 - share).sqrt() * noises
    return (model(noised, times) - noises).square().mean(dim=1)


def batches(data):
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(4))
    return BatchSampler(sampler, BATCH, drop_last=True)


def start():
    return torch.ones(POINTS)


def train(weights):
    """Train with a weight for each point; return the loss of the averaged model."""
    data, held_out = Moons(POINTS, 0), Moons(30, 1)
    model = make_model()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, betas=(0.9, 0.99), eps=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 4))
    loader, done = DataLoader(data, batch_sampler=batches(data)), 0
    while done < STEPS:
        for place, points, times, noises in loader:
            losses = losses_of(model, points, times, noises)
            optimizer.zero_grad()
            (losses * weights[place]).mean().backward()
            optimizer.step()
            scheduler.step()
            ema.update_parameters(model)
            done += 1
            if done == STEPS:
                break
    with torch.no_grad():
        return float(losses_of(ema.module, held_out.points, held_out.times, held_out.noises).mean())
