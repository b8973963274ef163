"""Pictures in a folder for each class, a ResNet, SGD with Nesterov's momentum, milestones."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

BATCH, EPOCHS, SIDE = 8, 3, 8


def draw_pictures(folder):
    """Write a few pictures, as somebody has them."""
    drawn = np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 8)):
        for label, name in enumerate(("disc", "stripe")):
            place = Path(folder) / split / name
            place.mkdir(parents=True)
            for picture in range(number):
                pixels = drawn.integers(0, 120, (SIDE, SIDE, 3))
                pixels[2:6, (2 if label else 0) :: 3 - label] += 100
                Image.fromarray(pixels.astype("uint8")).save(place / f"{picture:02}.png")


class Pictures(Dataset):
    """As torchvision's ImageFolder."""

    def __init__(self, folder):
        self.classes = sorted(each.name for each in Path(folder).iterdir())
        self.files = sorted(Path(folder).glob("*/*.png"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        file = self.files[number]
        pixels = torch.from_numpy(np.asarray(Image.open(file)).copy())
        picture = (pixels.permute(2, 0, 1).float() / 255 - 0.4) / 0.3
        return picture, self.classes.index(file.parent.name)


class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x):
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4))
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2))
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        x = self.blocks(self.pool(relu(self.stem(x))))
        return self.fc(x.mean(dim=(2, 3)))


def make_model():
    torch.manual_seed(0)
    return ResNet()


def batches(data):
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(5))
    return BatchSampler(sampler, BATCH, drop_last=True)


def start():
    return torch.ones(24)


class Numbered(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, number):
        return (number, *self.data[number])


def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4, 7], gamma=0.3)


def train(weights, folder):
    """Train with a weight for each picture; return the mean loss on the other folder."""
    data, held_out = Pictures(Path(folder) / "train"), Pictures(Path(folder) / "val")
    model = make_model()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-3
    )
    scheduler = make_scheduler(optimizer)
    loader = DataLoader(Numbered(data), batch_sampler=batches(data))
    model.train()
    for _ in range(EPOCHS):
        for number, pictures, labels in loader:
            losses = cross_entropy(model(pictures.double()), labels, reduction="none")
            optimizer.zero_grad()
            (losses * weights[number]).mean().backward()
            optimizer.step()
            scheduler.step()
    model.eval()
    total = 0.0
    with torch.no_grad():
        for pictures, labels in DataLoader(held_out, batch_size=5):
            total += float(cross_entropy(model(pictures.double()), labels, reduction="sum"))
    return total / len(held_out)
