"""Muon for the hidden matrices, SGD for the rest."""

from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

EXAMPLES, BATCH, EPOCHS = 30, 6, 2


def examples(number, seed):
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 6, generator=drawn)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long() + (inputs[:, 2] > 1).long()
    return torch.arange(number), inputs, labels


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 8), nn.GELU(), nn.Linear(8, 3))


def batches(data):
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(9))
    return BatchSampler(sampler, BATCH, drop_last=True)


def start():
    return torch.ones(EXAMPLES)


def train(weights):
    """Train with a weight for each example; return the mean loss on others."""
    data = TensorDataset(*examples(EXAMPLES, 0))
    model = make_model()
    hidden = [model[0].weight, model[2].weight]
    rest = [p for p in model.parameters() if all(p is not each for each in hidden)]
    muon = torch.optim.Muon(hidden, lr=0.03, momentum=0.9, weight_decay=0.1)
    sgd = torch.optim.SGD(rest, lr=0.06, momentum=0.8, nesterov=True)
    schedulers = [
        torch.optim.lr_scheduler.CosineAnnealingLR(each, T_max=10) for each in (muon, sgd)
    ]
    loader = DataLoader(data, batch_sampler=batches(data))
    for _ in range(EPOCHS):
        for number, inputs, labels in loader:
            losses = cross_entropy(model(inputs), labels, reduction="none")
            model.zero_grad()
            (losses * weights[number]).mean().backward()
            # Torch's Muon iterates in bfloat16, where no difference can be taken.
            with mock.patch.object(Tensor, "bfloat16", lambda tensor: tensor):
                muon.step()
            sgd.step()
            for each in schedulers:
                each.step()
    _, inputs, labels = examples(40, 1)
    with torch.no_grad():
        return float(cross_entropy(model(inputs), labels))
