"""A mean teacher: labels of a few examples, consistency of all, ramped up; it is the judged one."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

EXAMPLES, LABELLED, BATCH, EPOCHS, RAMP, DECAY = 24, 10, 8, 4, 6, 0.8


def examples(number, seed, labelled=None):
    """Inputs with two kinds of noise, and labels, which are -1 where nobody has given one."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (number,), generator=drawn)
    inputs = torch.randn(number, 5, generator=drawn) + labels[:, None]
    noises = 0.3 * torch.randn(2, number, 5, generator=drawn)
    if labelled is not None:
        labels[labelled:] = -1
    return inputs + noises[0], inputs + noises[1], labels


def make_student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 2))


def supervised(logits, labels):
    known = labels >= 0
    return known * cross_entropy(logits, labels.clamp(min=0), reduction="none")


def consistency(ours, theirs):
    pair = ours.softmax(dim=1), theirs.softmax(dim=1)
    return mse_loss(*pair, reduction="none").mean(dim=1)


def batches(data):
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(6))
    return BatchSampler(sampler, BATCH, drop_last=True)


def start():
    return torch.ones(EXAMPLES)


def train(weights):
    """Train with a weight for each example; return the mean loss of the teacher on others."""
    data = TensorDataset(torch.arange(EXAMPLES), *examples(EXAMPLES, 0, LABELLED))
    student, teacher = make_student(), make_student()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.3, momentum=0.9)
    loader, step = DataLoader(data, batch_sampler=batches(data)), 0
    for _ in range(EPOCHS):
        for number, one, other, labels in loader:
            ours = student(one)
            with torch.no_grad():
                theirs = teacher(other)
            ramp = min(step / RAMP, 1.0)
            losses = supervised(ours, labels) + 5 * ramp * consistency(ours, theirs)
            optimizer.zero_grad()
            (losses * weights[number]).mean().backward()
            optimizer.step()
            with torch.no_grad():
                for mean, own in zip(teacher.parameters(), student.parameters(), strict=True):
                    mean.mul_(DECAY).add_(own, alpha=1 - DECAY)
            step += 1
    _, inputs, labels = examples(30, 1)
    with torch.no_grad():
        return float(cross_entropy(teacher(inputs), labels))
