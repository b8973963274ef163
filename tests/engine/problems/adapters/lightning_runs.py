"""Loaders, Trainers and losses of the modules that tests of Lightning train."""

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def loaders(number=24, batch_size=4, *, by_class=False, **settings):
    drawn = torch.Generator().manual_seed(5)
    x, y = torch.randn(number, 4, generator=drawn), torch.randint(0, 3, (number,), generator=drawn)
    y = y.sort().values if by_class else y
    own = {"shuffle": True, "generator": torch.Generator().manual_seed(9)} | settings
    train = DataLoader(TensorDataset(x, y), batch_size=batch_size, **own)
    return train, DataLoader(TensorDataset(x[:8] + 0.1, y[:8]), batch_size=4)


def trainer_of(**settings):
    import lightning.pytorch as lightning

    own = {"max_epochs": 3, "gradient_clip_val": 0.5} | settings
    return lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0, **own,
    )  # fmt: skip


def each_loss(module, batch):
    x, y = batch
    kinds = functional.cross_entropy(module(x), y, reduction="none")
    return kinds + 0.3 * module.other(module.body(x)).square().mean(dim=1)
