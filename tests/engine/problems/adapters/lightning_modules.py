"""Modules as users of Lightning write them; importing this imports Lightning, for seconds."""

from types import MethodType

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.nn import functional


class Net(lightning.LightningModule):
    """Two heads, a logged metric, groups of parameters and a scheduler by step."""

    def __init__(self, optimizer="adamw", interval="step", frequency=1):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6))
        self.head, self.other = nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        kinds = functional.cross_entropy(self(x), y)
        loss = kinds + 0.3 * self.other(self.body(x)).square().mean()
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({"kinds": kinds})
        return {"loss": loss}

    def configure_optimizers(self):
        decayed = [p for p in self.parameters() if p.ndim > 1]
        rest = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": 0.2, "name": "matrices"},
            {"params": rest, "lr": 0.005, "name": "others"},
        ]
        made = {
            "adamw": lambda: torch.optim.AdamW(groups, lr=0.02, weight_decay=0.0),
            "sgd": lambda: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
            "rmsprop": lambda: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5, centered=True),
        }[self.hparams.optimizer]()
        if self.hparams.interval is None:
            return made
        steps = self.trainer.estimated_stepping_batches
        length = steps if self.hparams.interval == "step" else self.trainer.max_epochs
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(made, length)
        settings = {"scheduler": schedule, "interval": self.hparams.interval}
        settings["frequency"] = self.hparams.frequency
        return {"optimizer": made, "lr_scheduler": settings}


class Wrapped(Net):
    """A part whose ``forward`` a library has put another one around."""

    def __init__(self, **settings):
        super().__init__(**settings)
        plain = self.body.forward

        def scaled(_body, x):
            return 1.5 * plain(x)

        self.body.forward = MethodType(scaled, self.body)


class Path(lightning.Callback):
    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        while len(self.states) < trainer.global_step:
            self.states.append({n: p.detach().clone() for n, p in module.named_parameters()})


class Data(lightning.LightningDataModule):
    """Loaders that are made when a Trainer sets it up."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def setup(self, stage):
        self.both = self.make()

    def train_dataloader(self):
        return self.both[0]

    def val_dataloader(self):
        return [self.both[1]]


class ByHand(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Averages(Net):
    def on_train_batch_end(self, *given):
        """Would move an average."""


class Asks(Net):
    def training_step(self, batch, batch_idx):
        return (self.current_epoch + 1) * super().training_step(batch, batch_idx)["loss"]


class Sums(Net):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return functional.cross_entropy(self(x), y, reduction="sum")


class Skips(Net):
    def training_step(self, batch, batch_idx):
        return None


class Two(Net):
    def configure_optimizers(self):
        return [
            torch.optim.SGD(p, lr=0.1) for p in (self.body.parameters(), self.head.parameters())
        ]


class Indexed(Net):
    """As versions before 2 had several optimizers."""

    def training_step(self, batch, batch_idx, optimizer_idx):
        return super().training_step(batch, batch_idx)


class Some(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.body.parameters(), lr=0.1)


class Plateau(Net):
    def configure_optimizers(self):
        made = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(made)
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "monitor": "loss"}}


class Normed(Net):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))


class Alternates(Net):
    """Every second batch counts less."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)["loss"] * (0.1 if batch_idx % 2 else 1.0)


class Listed(Net):
    """A list reads the number of its place without a word to it."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)["loss"] * [1.0, *[0.5] * 99][batch_idx]


class Scaled(Net):
    """So does a product with a tensor."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        return loss + loss.detach() * 0.1 * torch.tensor(1.0).mul(batch_idx)


class Noisy(Net):
    """Adds noise to its inputs, as a diffusion model does."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return functional.cross_entropy(self(x + torch.randn_like(x)), y)


class LeavesOut(Net):
    def training_step(self, batch, batch_idx):
        return None if batch_idx == 3 else super().training_step(batch, batch_idx)


class Shows(Net):
    """Reads the number of its batch to log now and then, and has callbacks of its own."""

    def training_step(self, batch, batch_idx, more=0):
        found = super().training_step(batch, batch_idx)
        if batch_idx % 2 == 0:
            self.logger.experiment.add_scalar("loss", float(found["loss"]), batch_idx)
        return found

    def configure_callbacks(self):
        return []


class Late(Net):
    """Builds a layer when a Trainer sets it up."""

    def setup(self, stage):
        self.late = nn.Linear(3, 3)

    def forward(self, x):
        return self.late(super().forward(x))


class Cycles(Net):
    """A cycle of the momentum inside of another scheduler."""

    def configure_optimizers(self):
        made = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        of_torch = torch.optim.lr_scheduler
        parts = [of_torch.ConstantLR(made, 0.5, 1), of_torch.OneCycleLR(made, 0.3, total_steps=9)]
        schedule = of_torch.SequentialLR(made, parts, [1])
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Halves(Data):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] / 2, batch[1]


class OfPass(torch.utils.data.Sampler):
    """Begins elsewhere in each pass, whose number it is told."""

    def __init__(self, number):
        self.number, self.epoch = number, 0

    def __len__(self):
        return self.number

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([(5 * self.epoch + place) % self.number for place in range(self.number)])


class ByClass(Net):
    """A mean with weights of the classes, which is a plain mean where all are of one."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return functional.cross_entropy(self(x), y, weight=torch.tensor([1.0, 5.0, 9.0]))


class Blurs(Net):
    """Drops inputs by a function, and has no layer that says so."""

    def forward(self, x):
        return super().forward(functional.dropout(x, 0.5, self.training))


class Listing(Net):
    """One optimizer in a list, as a dict."""

    def configure_optimizers(self):
        return [super().configure_optimizers()]


class AsksData(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1 / len(self.trainer.datamodule))


class Adagrad(Net):
    """An optimizer without a counterpart, and a scheduler by pass."""

    def configure_optimizers(self):
        made = torch.optim.Adagrad(self.parameters(), lr=0.3)
        return {"optimizer": made, "lr_scheduler": torch.optim.lr_scheduler.StepLR(made, 1, 0.5)}
