"""Vector quantization with a codebook that follows the encoder by moving averages."""

import torch
from torch import nn
from torch.nn.functional import mse_loss, one_hot
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

SIGNALS, BATCH, STEPS, CODES, WIDTH, DECAY = 24, 8, 10, 5, 3, 0.7


def signals(number, seed):
    drawn = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 4, (number,), generator=drawn)
    shapes = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    return shapes[kinds] + 0.2 * torch.randn(number, 8, generator=drawn)


class VQ(nn.Module):
    """Half of what the decoder reads is the code itself, half is the encoder's own words."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, WIDTH))
        self.decoder = nn.Linear(WIDTH, 8)

    def forward(self, inputs, book):
        found = self.encoder(inputs)
        code = book[nearest(found, book)]
        losses = mse_loss(self.decoder(0.5 * found + 0.5 * code), inputs, reduction="none")
        commitment = mse_loss(found, code, reduction="none").mean(dim=1)
        return losses.mean(dim=1) + 0.25 * commitment


def nearest(found, book):
    return torch.cdist(found.detach(), book.detach()).argmin(dim=1)


def make_model():
    torch.manual_seed(3)
    return VQ()


def first_book():
    return 0.5 * torch.randn(CODES, WIDTH, generator=torch.Generator().manual_seed(1))


def follow(found, book, counts, sums):
    """Return what the averages and the codes are after a batch."""
    chosen = one_hot(nearest(found, book), CODES).to(found)
    counts = DECAY * counts + (1 - DECAY) * chosen.sum(dim=0)
    sums = DECAY * sums + (1 - DECAY) * chosen.T @ found
    return sums / (counts + 1e-2)[:, None], counts, sums


def batches(data):
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(7))
    return BatchSampler(sampler, BATCH, drop_last=True)


def start():
    return torch.ones(SIGNALS)


def train(weights):
    """Train with a weight for each signal; return the mean loss on others, with the last book."""
    data = TensorDataset(torch.arange(SIGNALS), signals(SIGNALS, 5))
    model = make_model()
    book, counts = first_book(), torch.ones(CODES)
    sums = book * counts[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, eps=1e-3, weight_decay=0.02)
    loader, done = DataLoader(data, batch_sampler=batches(data)), 0
    while done < STEPS:
        for number, inputs in loader:
            losses = model(inputs, book)
            optimizer.zero_grad()
            (losses * weights[number]).mean().backward()
            with torch.no_grad():
                book, counts, sums = follow(model.encoder(inputs), book, counts, sums)
            optimizer.step()
            done += 1
            if done == STEPS:
                break
    with torch.no_grad():
        return float(model(signals(20, 6), book).mean())
