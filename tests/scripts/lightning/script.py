"""A module in the style of Lightning with two heads, SGD under a one-cycle policy."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, huber_loss
from torch.utils.data import DataLoader, TensorDataset

BATCH, EPOCHS, SCENES = 6, 3, 24


class TwoHeads(nn.Module):
    """What kind a scene is of, and how far away."""

    def __init__(self, weight_decay=0.02):
        super().__init__()
        self.weight_decay = weight_decay
        self.logged = {}
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.LayerNorm(8))
        self.kind, self.distance = nn.Linear(8, 3), nn.Linear(8, 1)

    def log(self, name, value):
        self.logged[name] = float(value.detach())

    def losses(self, batch):
        scenes, kinds, distances = batch
        known = self.trunk(scenes)
        far = huber_loss(self.distance(known)[:, 0], distances, reduction="none", delta=2.0)
        return cross_entropy(self.kind(known), kinds, reduction="none") + 0.5 * far

    def training_step(self, batch, batch_idx):
        loss = self.losses(batch).mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self, total_steps=EPOCHS * SCENES // BATCH):
        optimizer = torch.optim.SGD(
            self.parameters(), lr=0.1, momentum=0.9, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=total_steps + 1, base_momentum=0.8, max_momentum=0.9
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}


def scenes(number, seed):
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 5, generator=drawn)
    kinds = torch.randint(0, 3, (number,), generator=drawn)
    return TensorDataset(inputs + kinds[:, None] / 2, kinds, inputs.square().sum(dim=1) / 5)


def make_module(weight_decay=0.02):
    torch.manual_seed(7)
    return TwoHeads(weight_decay)


def loader(epoch):
    """The batches of an epoch, shuffled by its number."""
    drawn = torch.Generator().manual_seed(epoch)
    return DataLoader(scenes(SCENES, 0), batch_size=BATCH, shuffle=True, generator=drawn)


def start():
    """Logarithm of the weight decay."""
    return torch.tensor([0.02]).log()


def train(log_decay):
    """Fit as a trainer does, with that decay; return the mean loss on other scenes."""
    module = make_module(float(log_decay.exp()))
    parts = module.configure_optimizers()
    optimizer, scheduler = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    module.train()
    for epoch in range(EPOCHS):
        for batch_idx, batch in enumerate(loader(epoch)):
            optimizer.zero_grad()
            module.training_step(batch, batch_idx).backward()
            optimizer.step()
            scheduler.step()
    module.eval()
    with torch.no_grad():
        return float(module.losses(scenes(30, 1).tensors).mean())
