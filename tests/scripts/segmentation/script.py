"""A U-Net on masks: dice and cross-entropy, one cycle of rate and momentum."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, silu

PICTURES, BATCH, STEPS, SIZE = 20, 5, 10, 8


def pictures(number, seed):
    """Noise with a bright rectangle, and where it is."""
    drawn = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, SIZE - 3, (number, 2), generator=drawn)
    masks = torch.zeros(number, 1, SIZE, SIZE)
    for mask, (top, left) in zip(masks, corners.tolist(), strict=True):
        mask[:, top : top + 3, left : left + 4] = 1
    return torch.randn(number, 1, SIZE, SIZE, generator=drawn) + 2 * masks, masks


class Block(nn.Module):
    def __init__(self, ins, outs):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(ins, outs, 3, padding=1), nn.GroupNorm(2, outs)

    def forward(self, x):
        return silu(self.norm(self.conv(x)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = Block(1, 4), Block(4, 6), Block(6, 6)
        self.shrink = nn.AvgPool2d(2)
        self.grow = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.back_two, self.back_one = Block(12, 4), Block(8, 4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        one = self.one(x)
        two = self.two(self.shrink(one))
        three = self.three(self.shrink(two))
        found = self.back_two(torch.cat([self.grow(three), two], dim=1))
        found = self.back_one(torch.cat([self.up(found), one], dim=1))
        return self.head(found)


def make_model():
    torch.manual_seed(21)
    return UNet()


def mask_losses(model, images, masks):
    logits = model(images)
    shares = logits.sigmoid()
    both = (shares * masks).sum(dim=(1, 2, 3))
    dice = (2 * both + 1) / (shares.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3)) + 1)
    entropy = binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return 1 - dice + entropy.mean(dim=(1, 2, 3))


def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=STEPS, base_momentum=0.8, max_momentum=0.95
    )


def order():
    drawn = torch.Generator().manual_seed(6)
    passes = [
        torch.randperm(PICTURES, generator=drawn) for _ in range(STEPS * BATCH // PICTURES + 1)
    ]
    return torch.cat(passes)[: STEPS * BATCH].reshape(STEPS, BATCH)


def start():
    return torch.ones(PICTURES)


def train(weights):
    """Train with a weight for each picture; return the mean loss on others."""
    images, masks = pictures(PICTURES, 0)
    model = make_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    scheduler = make_scheduler(optimizer)
    for batch in order():
        losses = mask_losses(model, images[batch], masks[batch])
        optimizer.zero_grad()
        (losses * weights[batch]).mean().backward()
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        return float(mask_losses(model, *pictures(12, 1)).mean())
